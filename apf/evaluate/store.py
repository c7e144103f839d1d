"""Finished rows and protected faces, kept in a folder: a run that broke off goes on, and another condition is cheap."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from apf.evaluate.conditions import CONDITIONS, Condition, eight_bits
from apf.evaluate.crops import Row, fingerprint, finished, protected
from apf.evaluate.methods import Method
from apf.evaluate.targets import Pairs, Target

#: Raised when the same faces and recognisers would now give other figures.
VERSION = "1"


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
    ) -> list[Row]:
        """As `crops.evaluate`, but with rows and faces of earlier runs wherever their keys agree."""
        self.folder.mkdir(parents=True, exist_ok=True)
        measured = _measured(pairs, targets, conditions)
        keys = {method: fingerprint(measured, _faces_key(method, pairs.probes)) for method in methods}
        rows = {method: self._kept_row(method, key) for method, key in keys.items()}
        missing = [method for method, row in rows.items() if row is None]
        computed = finished(pairs, targets, missing, conditions, self._protected) if missing else ()
        for method, row in zip(missing, computed, strict=True):
            self._keep_row(method, keys[method], row)
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

    def _kept_row(self, method: Method, key: str) -> Row | None:
        file = self._file(method, "json")
        if self.fresh or not file.exists():
            return None
        try:
            kept = json.loads(file.read_text())
            return Row.model_validate(kept["row"]) if kept["key"] == key else None
        except (ValueError, KeyError, ValidationError):  # cut off while it was written, or of another version
            return None

    def _keep_row(self, method: Method, key: str, row: Row) -> None:
        kept = {"key": key, "made of": method.key, "row": row.model_dump(mode="json")}
        self._file(method, "json").write_text(json.dumps(kept, indent=1) + "\n")

    def _file(self, method: Method, suffix: str) -> Path:
        slug = re.sub(r"[^a-z0-9]+", "-", method.name.lower()).strip("-")
        return self.folder / f"{slug}.{suffix}"


def _faces_key(method: Method, faces: Tensor) -> str:
    return fingerprint(VERSION, method.name, method.key, eight_bits(faces))


def _measured(pairs: Pairs, targets: Sequence[Target], conditions: Mapping[str, Condition]) -> str:
    recognisers = [(t.name, t.recogniser.key, t.trained_on, t.thresholds) for t in targets]
    people = [(t.people, fingerprint(t.clean)) for t in targets]
    return fingerprint(VERSION, json.dumps([recognisers, people, pairs.people, list(conditions)]), pairs.gallery)
