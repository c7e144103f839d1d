"""The list of recognisers that trainings and evaluations ask: `models.json` beside their ONNX files."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, TypeAdapter, ValidationError

from apf.errors import WeightsError
from apf.guides.input_spec import InputSpec
from apf.guides.torch_recogniser import Recogniser, load_recogniser

Role = Literal["train", "validate"]


class _Entry(BaseModel):
    """One model of models.json; further fields (licence, accuracy) are for readers."""

    role: Role
    input: InputSpec
    sha256: str


_ENTRIES = TypeAdapter(dict[str, _Entry])


def load_recognisers(folder: Path, *, role: Role | None = None) -> dict[str, Recogniser]:
    """Return the recognisers that `folder/models.json` lists, by name; those of one role if given.

    Raises:
        WeightsError: the list or a model is missing, or a model differs from its SHA-256.
    """
    index = Path(folder) / "models.json"
    try:
        entries = _ENTRIES.validate_json(index.read_bytes().removeprefix(codecs.BOM_UTF8))
    except OSError as error:
        raise WeightsError(
            f"no list of recognisers at {index} ({error.strerror}): name the folder of the ONNX files with --models"
        ) from error
    except ValidationError as error:
        raise WeightsError(f"{index} is not a list of recognisers: {error}") from error
    return {
        name: load_recogniser(Path(folder) / f"{name}.onnx", entry.input, sha256=entry.sha256)
        for name, entry in entries.items()
        if role in (None, entry.role)
    }
