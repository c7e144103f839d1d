"""Finished rows and protected faces, kept in a folder: a run that broke off goes on, and another condition is cheap."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import BaseModel
from torch import Tensor

from apf.research.evaluate.conditions import CONDITIONS, SOURCES, Condition, eight_bits
from apf.research.evaluate.crops import Row, before, fingerprint, finished, protected
from apf.research.evaluate.methods import Method
from apf.research.evaluate.targets import Pairs, Target

#: Raised when the same faces and recognisers would now give other figures.
VERSION = "1"

Kind = TypeVar("Kind", bound=BaseModel)


@dataclass(frozen=True)
class Store:
    """`<slug>.json` holds a row and the key of all it depends on, `<slug>.pt` the protected faces and theirs."""

    folder: Path
    #: Compute everything anew, and keep that.
    fresh: bool = False

    def rows(
        self,
        pairs: Pairs,
        targets: Sequence[Target],
        methods: Sequence[Method],
        conditions: Mapping[str, Condition] = CONDITIONS,
        sources: Mapping[str, Condition] = SOURCES,
    ) -> list[Row]:
        """As `crops.evaluate`, but with rows and faces of earlier runs wherever their keys agree."""
        self.folder.mkdir(parents=True, exist_ok=True)
        measured, faces = _measured(pairs, targets, [*conditions, *sources]), before(pairs, sources)
        keys = {method: fingerprint(measured, _faces_key(method, faces)) for method in methods}
        rows = {
            method: None if self.fresh else kept_row(self._file(method, "json"), key, Row)
            for method, key in keys.items()
        }
        missing = [method for method, row in rows.items() if row is None]
        computed = finished(pairs, targets, missing, conditions, sources, self._protected) if missing else ()
        for method, row in zip(missing, computed, strict=True):
            keep_row(self._file(method, "json"), keys[method], method.key, row)
            rows[method] = row
        return [row for row in rows.values() if row is not None]

    def _protected(self, method: Method, faces: Tensor) -> Tensor:
        file, key = self._file(method, "pt"), _faces_key(method, faces)
        kept = torch.load(file) if file.exists() and not self.fresh else {}
        if kept.get("key") == key:
            pixels: Tensor = kept["pixels"]
            return pixels
        pixels = protected(method, faces)
        torch.save({"key": key, "pixels": pixels}, file.with_suffix(".part"))
        file.with_suffix(".part").replace(file)
        return pixels

    def _file(self, method: Method, suffix: str) -> Path:
        return self.folder / f"{slug(method.name)}.{suffix}"


def slug(name: str) -> str:
    """Return a row's name as a file's."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def kept_row(file: Path, key: str, kind: type[Kind]) -> Kind | None:
    """Return the row in a file, if it is of this key."""
    try:
        kept = json.loads(file.read_text())
        return kind.model_validate(kept["row"]) if kept["key"] == key else None
    except (OSError, ValueError, LookupError, TypeError):  # none yet, cut off while it was written, of another version
        return None


def keep_row(file: Path, key: str, made_of: str, row: BaseModel) -> None:
    """Keep a row, with the key of all that it depends on."""
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = {"key": key, "made of": made_of, "row": row.model_dump(mode="json")}
    file.write_text(json.dumps(kept, indent=1) + "\n")


def _faces_key(method: Method, faces: Tensor) -> str:
    return fingerprint(VERSION, method.name, method.key, eight_bits(faces))


def _measured(pairs: Pairs, targets: Sequence[Target], conditions: Sequence[str]) -> str:
    recognisers = [(t.name, t.recogniser.key, t.trained_on, t.thresholds) for t in targets]
    people = [(t.people, fingerprint(t.clean)) for t in targets]
    return fingerprint(VERSION, json.dumps([recognisers, people, pairs.people, conditions]), pairs.gallery)
