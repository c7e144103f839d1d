"""The last steps of a photo, once the perturbations of its faces are there: paste and encode. Without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from apf.faces import Face, Float32, Float64, paste
from apf.photo import Photo, encode
from apf.recipe import Recipe

#: "no_face": no face was found, and the pixels are the source's own.
Outcome = Literal["protected", "no_face"]


@dataclass(frozen=True)
class ProtectedPixels:
    """A photo between the filter and the encoder."""

    photo: Photo
    #: (H, W, 3) uint8 RGB, upright.
    pixels: np.ndarray
    faces: tuple[Face, ...]

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


def pasted(
    photo: Photo,
    faces: Sequence[Face],
    matrices: Sequence[Float64],
    deltas: Sequence[Float32],
    recipe: Recipe,
    *,
    in_place: bool = False,
) -> ProtectedPixels:
    """The photo with a perturbation (3, 112, 112) on each face, within the recipe's bound.

    Args:
        in_place: the photo itself may be changed.
    """
    pixels = photo.pixels
    if faces:
        pixels = paste(
            pixels, deltas, matrices, epsilon_levels=recipe.epsilon_levels, grey=photo.grey, in_place=in_place
        )
    return ProtectedPixels(photo=photo, pixels=pixels, faces=tuple(faces))


def encoded(protected: ProtectedPixels, recipe: Recipe) -> bytes:
    """The photo in its source's own format, under the recipe's JPEG policy."""
    return encode(protected.photo, protected.pixels, jpeg_floor_quality=recipe.jpeg_floor_quality)


def published(protected: ProtectedPixels, recipe: Recipe, *, bytes_in: int) -> ProtectedPhoto:
    """The encoded photo with its facts."""
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
    )
