"""Load recognisers to be asked. They only run forwards: any ONNX network serves, with or without a known gradient."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from apf.check.marks import Marks
from apf.errors import GuideError
from apf.faces.alignment import CROP, Float32
from apf.guides.guide import NO_CENTRE, ProbeGuide, Source
from apf.guides.input_transform import Feeding
from apf.guides.loading import find_source
from apf.runtime.onnx_session import quiet_session

#: Cosines, from the centre, at false accept rates of 1e-2 and 1e-3, among 1,200 people of LFW (1,830 photos).
KNOWN = {"dlib": Marks(0.48, 0.64, "known"), "apf-mfn": Marks(0.3, 0.4, "known"), "probe": Marks(0.55, 0.67, "known")}
#: Shorter embeddings count as this long.
TINY = 1e-12


@dataclass(frozen=True)
class Recogniser:
    """A recogniser that is asked."""

    #: As the user names it, without the way to its file.
    name: str
    #: Takes a crop (3, 112, 112) float32 RGB in [0, 1], gives its embedding (D,).
    embedding: Callable[[Float32], Float32]
    #: None where they are to be estimated.
    marks: Marks | None = None
    centre: Float32 = field(default_factory=lambda: NO_CENTRE)
    #: Whether the filter's steps climbed on it: its verdict flatters.
    climbed: bool = False
    #: Whether the user named it: its verdict decides.
    own: bool = False

    def identities(self, crops: Sequence[Float32]) -> Float32:
        """Return what sets each face apart, (N, D) of unit length."""
        if not crops:
            return np.zeros((0, 1), np.float32)
        found = np.stack([_unit(self.embedding(crop)) - self.centre for crop in crops])
        units: Float32 = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), TINY)
        return units


def load_recogniser(name: str, *, climbed: bool = False, own: bool = False) -> Recogniser:
    """Return a recogniser by its name, or an ONNX file's, as `apf.guides.load_guide` has them.

    Raises:
        GuideError: it is unknown, missing or damaged, or does not take faces as its spec says.
    """
    if name == "probe":
        probe = ProbeGuide()
        return Recogniser(name, lambda crop: probe.embed(crop[None])[0], KNOWN[name], climbed=climbed, own=own)
    source = find_source(name)
    marks = KNOWN.get(name) or (_given(Path(name).expanduser()) if name.endswith(".onnx") else None)
    return Recogniser(source.name, _forward(source), marks, source.centre, climbed, own)


def _forward(source: Source) -> Callable[[Float32], Float32]:
    feeding = Feeding(source.spec)
    try:
        session = quiet_session(source.model)
    except Exception as error:  # ONNX Runtime's own have no other base
        raise GuideError(f"recogniser {source.name!r} cannot be run here: {error}") from error
    given, made = session.get_inputs(), session.get_outputs()
    if len(given) != 1 or len(made) != 1:
        raise GuideError(
            f"recogniser {source.name!r} has {len(given)} inputs and {len(made)} outputs: export it with one of each, "
            "from a picture to a vector"
        )

    def embedding(crop: Float32) -> Float32:
        found: Float32 = session.run([made[0].name], {given[0].name: feeding.there(crop)})[0]
        return found.astype(np.float32).ravel()

    try:
        grey = embedding(np.full((3, CROP, CROP), 0.5, np.float32))
    except Exception as error:  # as above
        raise GuideError(
            f"recogniser {source.name!r} does not take faces as its spec says ({str(error).splitlines()[0]}): mend the "
            "size in NAME.json beside it"
        ) from error
    if not np.isfinite(grey).all():
        raise GuideError(f"recogniser {source.name!r} embeds a grey face as no number: its spec or its file is wrong")
    return embedding


def _unit(vector: Float32) -> Float32:
    unit: Float32 = vector / max(float(np.linalg.norm(vector)), TINY)
    return unit


def _given(path: Path) -> Marks | None:
    """Return the `threshold` that the user wrote beside `input` in NAME.json, or in the file's entry of models.json."""
    own, listed = path.with_suffix(".json"), path.with_name("models.json")
    found: Any = None
    try:
        if own.exists():
            found = json.loads(own.read_bytes()).get("threshold")
        elif listed.exists():
            found = json.loads(listed.read_bytes()).get(path.stem, {}).get("threshold")
    except (OSError, ValueError, AttributeError) as error:
        raise GuideError(f"{own if own.exists() else listed} cannot be read: {error}") from error
    if found is None:
        return None
    if not isinstance(found, int | float) or not -1 < found <= 1:
        raise GuideError(f"the threshold of recogniser {path.stem!r} is {found!r}: write a cosine, such as 0.36")
    return Marks(float(found), None, "given")
