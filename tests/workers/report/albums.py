"""Batches as workers leave them, made without the filter: what is published looks nothing like its source."""

from __future__ import annotations

import base64
import io
import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from apf.faces.alignment import ARCFACE_TEMPLATE, Face
from apf.recipe import load_recipe
from workers.config.settings import Settings
from workers.core.records import Batch, Outcome, PhotoRef, PhotoReport, ShardReport
from workers.execution.shard_pipeline import BATCH, FACES, OUTCOME, RECIPE, SOURCE_ETAG
from workers.ledger.batch_ledger import Ledger, new_batch_id, open_ledger
from workers.report import build as building
from workers.report.build import ReportOptions, WrittenReport, build
from workers.report.output_files import Target
from workers.store import Store, open_store

#: A face whose aligned crop is the photo's upper left 112 pixels.
FACE = Face((15, 5, 97, 115), tuple((float(x), float(y)) for x, y in ARCFACE_TEMPLATE), 0.9)
DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)
EMBEDDED = re.compile(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)")


class SeesOneFace:
    """Stands for the filter where the real detector and probe are not what is tested."""

    def __init__(self) -> None:
        self.seen = 0

    def embedding(self, face: np.ndarray) -> np.ndarray:
        """The face itself, so that a cosine can be worked out by hand."""
        return face.ravel() / np.linalg.norm(face)

    @property
    def detector(self) -> SeesOneFace:
        return self

    def detect(self, images: Sequence[np.ndarray]) -> list[list[Face]]:
        self.seen += len(images)
        return [[FACE] for _ in images]


def pixels(seed: int, height: int = 150, width: int = 200) -> np.ndarray:
    """Large soft blotches: a picture that survives a JPEG and a change of size."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(picture: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind, **options)
    return buffer.getvalue()


@dataclass
class Album:
    """A source, a destination and one batch between them."""

    source: Store
    destination: Store
    settings: Settings = field(default_factory=Settings)
    reports: list[PhotoReport] = field(default_factory=list)
    no_face: str = "copy"

    @classmethod
    def new(cls) -> Album:
        name = uuid.uuid4().hex
        return cls(open_store(f"memory://in-{name}"), open_store(f"memory://out-{name}", create=True))

    def __post_init__(self) -> None:
        self.batch = Batch(
            id=new_batch_id(),
            source=self.source.url,
            destination=self.destination.url,
            recipe=load_recipe("standard"),
            no_face="skip" if self.no_face == "skip" else "copy",
            created_at="2026-11-25T20:00:00+00:00",
            planned=True,
        )

    @property
    def ledger(self) -> Ledger:
        return open_ledger(self.destination.url, s3=self.settings.s3)

    def photo(
        self,
        key: str,
        outcome: Outcome = Outcome.protected,
        *,
        before: np.ndarray | None = None,
        published: Outcome | None = Outcome.protected,
        **facts: Any,
    ) -> np.ndarray:
        """A source, its output (its negative) with the workers' marks, and its report; returns the source's pixels."""
        before = pixels(len(self.reports)) if before is None else before
        info = self.source.put(key, encoded(before))
        etag = info.etag or self.source.head(key).etag  # type: ignore[union-attr]
        if published:
            after = before if published is Outcome.no_face else 255 - before
            faces = 0 if published is Outcome.no_face else 1
            self.publish(key, after, published, etag, faces)
        self.reports.append(PhotoReport(key=key, etag=etag, outcome=outcome, **facts))
        return before

    def publish(self, key: str, after: np.ndarray, outcome: Outcome, etag: str, faces: int = 1) -> None:
        marks = {SOURCE_ETAG: etag, RECIPE: self.batch.recipe.id, BATCH: self.batch.id, OUTCOME: outcome.value}
        self.destination.put(key, encoded(after), metadata={**marks, FACES: str(faces)})

    def failed(self, key: str, reason: str, *, transient: bool = False) -> None:
        self.reports.append(PhotoReport(key=key, etag="e", outcome=Outcome.failed, reason=reason, transient=transient))

    def write(self) -> None:
        """The batch's record, its one shard's plan and report."""
        refs = [PhotoRef(key=report.key, etag=report.etag, size=1) for report in self.reports]
        batch = self.batch.model_copy(update={"shards": 1, "photos": len(refs)})
        self.ledger.write_batch(batch)
        self.ledger.write_plan(batch.id, 0, refs)
        report = ShardReport(
            shard=0,
            photos=tuple(self.reports),
            stage_seconds={},
            wall_seconds=75.0,
            worker="host:1",
            finished_at="2026-11-25T20:01:15+00:00",
            peak_memory_bytes=1,
        )
        self.ledger.write_report(batch.id, report)

    def report(self, page: Path, eyes: SeesOneFace | None = None, **asked: Any) -> WrittenReport:
        """The real page, by the real decoder; `eyes` see one face in every photo."""
        self.write()
        before = building._eyes
        building._eyes = lambda recipe: eyes or SeesOneFace()  # type: ignore[assignment,return-value]
        try:
            return build(self.ledger, self.batch.id, Target(page), ReportOptions(**asked), self.settings)
        finally:
            building._eyes = before


def records(page: Path) -> dict[str, Any]:
    """What the page's script knows, by the photo's name."""
    found = DATA.search(page.read_text())
    assert found
    return {photo["name"]: photo for photo in json.loads(found[1])["photos"]}


def all_pictures(page: Path) -> list[np.ndarray]:
    """Every picture that the page carries in itself or in its folder, wherever it stands."""
    inside = [base64.b64decode(text) for text in EMBEDDED.findall(page.read_text())]
    folder = page.with_name(f"{page.stem}_files")
    beside = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))] if folder.exists() else []
    return [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in inside + beside]
