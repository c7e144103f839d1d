"""Paste the perturbations of a photo's faces and encode it. Without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from apf.attack.bound import Bound
from apf.attack.canvas import Canvas
from apf.attack.paste import paste
from apf.attack.perturbation import Change
from apf.faces.alignment import Face, Float64
from apf.photo import Photo, encode
from apf.recipe import Recipe

if TYPE_CHECKING:
    from apf.attack.jury import Verdict

#: "no_face": no face was found, and the pixels are the source's own.
Outcome = Literal["protected", "no_face"]


@dataclass(frozen=True)
class ProtectedPixels:
    """A photo between the filter and the encoder."""

    photo: Photo
    #: (H, W, 3) uint8 RGB, upright.
    pixels: np.ndarray
    faces: tuple[Face, ...]
    #: The jury's verdict on each face; None where the recipe takes no steps.
    verdicts: tuple[Verdict | None, ...] = ()

    @property
    def weak(self) -> int:
        """Faces that the jury still knows."""
        return sum(verdict is not None and verdict.weak for verdict in self.verdicts)

    @property
    def outcome(self) -> Outcome:
        return "protected" if self.faces else "no_face"


@dataclass(frozen=True)
class ProtectedPhoto:
    """An encoded photo, ready to be published."""

    data: bytes
    faces: tuple[Face, ...]
    outcome: Outcome
    #: Upright, in pixels; the same before and after.
    width: int
    height: int
    bytes_in: int
    bytes_out: int
    #: On metadata that was to be kept and could not be, a sentence each.
    notes: tuple[str, ...] = ()
    #: The jury's verdict on each face; None where the recipe takes no steps.
    verdicts: tuple[Verdict | None, ...] = ()


def pasted(
    photo: Photo,
    faces: Sequence[Face],
    matrices: Sequence[Float64],
    changes: Sequence[Change],
    recipe: Recipe,
    *,
    verdicts: Sequence[Verdict | None] = (),
    canvases: Sequence[Canvas | None] = (),
    in_place: bool = False,
) -> ProtectedPixels:
    """Return the photo with its faces changed, within the recipe's bound.

    Args:
        canvases: of the faces, as steps had them.
        in_place: the photo itself may be changed.
    """
    pixels = photo.pixels
    if faces:
        allowed = Bound.of(recipe)
        pixels = paste(pixels, changes, matrices, allowed, grey=photo.grey, in_place=in_place, canvases=canvases)
    return ProtectedPixels(photo=photo, pixels=pixels, faces=tuple(faces), verdicts=tuple(verdicts))


def encoded(protected: ProtectedPixels, recipe: Recipe) -> bytes:
    """Return the photo in its source's own format, under the recipe's JPEG policy."""
    return encode(protected.photo, protected.pixels, jpeg_floor_quality=recipe.jpeg_floor_quality)


def published(protected: ProtectedPixels, recipe: Recipe, *, bytes_in: int) -> ProtectedPhoto:
    """Return the encoded photo with its facts."""
    data = encoded(protected, recipe)
    header = protected.photo.header
    return ProtectedPhoto(
        data=data,
        faces=protected.faces,
        outcome=protected.outcome,
        width=header.width,
        height=header.height,
        bytes_in=bytes_in,
        bytes_out=len(data),
        notes=protected.photo.notes,
        verdicts=protected.verdicts,
    )
