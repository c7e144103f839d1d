"""Protection of whole photos, as a stranger measures it: protect, publish, find and align the face anew, compare.

Nothing that protection knew is used again; where the face was only tells which of several found faces is meant.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from tqdm import tqdm

from apf.detection.detector import Detector
from apf.research.evaluate.crops import fingerprint
from apf.research.evaluate.store import keep_row, kept_row, slug
from apf.research.evaluate.targets import Target
from apf.research.evaluate.whole_photos.conditions import CONDITIONS, Condition
from apf.research.evaluate.whole_photos.judge import Judge, Verdict
from apf.research.evaluate.whole_photos.looks import Looks, looks_of
from apf.research.evaluate.whole_photos.pictures import Pictures
from apf.research.evaluate.whole_photos.protectors import PhotoMethod, Protected
from apf.research.evaluate.whole_photos.subjects import Subject, decoded
from apf.research.evaluate.whole_photos.trials import crops_of, nearest

#: Raised when the same photos and recognisers would now give other figures.
VERSION = "1"


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True)


class Judged(_Result):
    """One condition of a row."""

    #: Pairs of a protected photo and another, clean one of the person.
    pairs: int
    #: Photos whose face is not found any more; they are in no pair, and count as neither.
    lost: int
    recognisers: dict[str, Verdict]
    #: Means over the recognisers that the method did not climb on, and over those of them that no training attacked.
    unseen: Verdict | None
    validate_only: Verdict | None


class PhotoRow(_Result):
    """One method on the main faces of whole photos."""

    method: str
    #: Empty for a rival, and where nothing was protected.
    recipe: str
    #: Protected photos, and all faces in them.
    photos: int
    faces: int
    #: Faces that the recipe's own jury still knows.
    weak: int
    #: Recognisers that the method climbs on, or asks when it may stop.
    guides: tuple[str, ...]
    conditions: dict[str, Judged]
    looks: Looks | None
    #: Mean wall seconds of a face, between alignment and the pasted photo; None where nothing is done.
    seconds_a_face: float | None


@dataclass(frozen=True)
class PhotoBench:
    """What all rows are measured with."""

    subjects: Sequence[Subject]
    judge: Judge
    #: Finds the faces that are compared.
    detector: Detector
    #: Another one, where there is one.
    other: Detector | None = None
    conditions: Mapping[str, Condition] = field(default_factory=lambda: CONDITIONS)
    #: Of the subjects, only each so many-th is protected, and no more than `limit` (0 is no limit): the others are
    #: still compared with.
    every: int = 1
    limit: int = 0

    @property
    def protected(self) -> list[int]:
        """Positions of the subjects that are protected."""
        return list(range(0, len(self.subjects), self.every))[: self.limit or None]


def photo_rows(
    bench: PhotoBench,
    methods: Sequence[PhotoMethod],
    *,
    folder: Path | None = None,
    key: str = "",
    fresh: bool = False,
    pictures: Path | None = None,
) -> list[PhotoRow]:
    """Return a row for each method.

    Args:
        folder: keeps finished rows; a run that broke off goes on.
        key: all that the rows depend on but the method.
        fresh: compute all rows anew, and keep those.
        pictures: folder for sheets of each method's photos.
    """
    rows = []
    for method in methods:
        file, own = (folder or Path()) / f"{slug(method.name)}.json", fingerprint(VERSION, key, method.name, method.key)
        row = None if fresh or not folder else kept_row(file, own, PhotoRow)
        if row is None or pictures:
            row = photo_row(bench, method, Pictures(pictures / slug(method.name)) if pictures else None)
            if folder:
                keep_row(file, own, method.key, row)
        rows.append(row)
    return rows


def photo_row(bench: PhotoBench, method: PhotoMethod, pictures: Pictures | None = None) -> PhotoRow:
    """Protect the main faces, and whoever is beside them, and have all recognisers look."""
    ready = method.build()
    crops: dict[str, dict[int, Tensor | None]] = {}
    looks, seconds, faces, weak = [], 0.0, 0, 0
    for index in tqdm(bench.protected, desc=method.name, unit="photo", leave=False):
        subject = bench.subjects[index]
        photo = decoded(subject.path)
        protected = ready.protect(photo)
        found = crops_of(protected.published, subject.box, bench.conditions, bench.detector, bench.other)
        for name, crop in found.items():
            crops.setdefault(name, {})[index] = crop
        if protected.faces:
            looks.append(_looks(subject, photo.pixels, protected))
        if pictures:
            pictures.add(f"{subject.person}-{subject.path.stem}", photo.pixels, protected.published, subject.box)
        seconds, faces, weak = seconds + protected.seconds, faces + len(protected.faces), weak + protected.weak
    if pictures:
        pictures.finish()
    return PhotoRow(
        method=method.name,
        recipe=method.recipe,
        photos=len(bench.protected),
        faces=faces,
        weak=weak,
        guides=ready.guides,
        conditions={name: _judged(bench, own, ready.guides) for name, own in crops.items()},
        looks=Looks.mean([one for one in looks if one]),
        seconds_a_face=seconds / faces if faces else None,
    )


def row_key(bench: PhotoBench, detectors: Sequence[str]) -> str:
    """All that a row depends on but its method."""
    targets = [(t.name, t.recogniser.key, t.trained_on, t.thresholds) for t in bench.judge.targets]
    photos = [(one.person, one.path.name, fingerprint(one.crop)) for one in bench.subjects]
    parts = [targets, photos, list(bench.conditions), bench.protected, list(detectors)]
    return fingerprint(json.dumps(parts), *bench.judge.strangers.values())


def _looks(subject: Subject, clean: np.ndarray, protected: Protected) -> Looks | None:
    face = nearest(protected.faces, subject.box)
    change = protected.changes[protected.faces.index(face)] if face and protected.changes else None
    return looks_of(clean, protected.still, protected.pixels, subject.box, change, protected.warp)


def _judged(bench: PhotoBench, crops: Mapping[int, Tensor | None], guides: Sequence[str]) -> Judged:
    everybody = [crops.get(index) for index in range(len(bench.subjects))]
    found = bench.judge.verdicts(everybody)
    unseen = [target for target in bench.judge.targets if target.name in found and target.name not in guides]
    return Judged(
        pairs=bench.judge.pairs([index for index, crop in enumerate(everybody) if crop is not None]),
        lost=sum(crop is None for crop in crops.values()),
        recognisers=found,
        unseen=_mean(found, unseen),
        validate_only=_mean(found, [target for target in unseen if not target.trained_on]),
    )


def _mean(found: Mapping[str, Verdict], targets: Sequence[Target]) -> Verdict | None:
    return Verdict.mean([found[target.name] for target in targets])
