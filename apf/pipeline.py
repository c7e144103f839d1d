"""A photo goes in, a protected photo comes out: decode, detect, align, perturb, paste back, encode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from apf.clock import StageClock
from apf.faces import Face, align, alignment, paste
from apf.filter import Filter
from apf.photo import Limits, Photo, decode, encode

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


def protect_batch(photos: Sequence[Photo], filter: Filter, clock: StageClock | None = None) -> list[ProtectedPixels]:
    """Protect every face of every photo; the faces of all photos share the filter's batches.

    The result for a photo does not depend on the photos around it.
    """
    clock = clock or StageClock()
    with clock.stage("detect"):
        found = filter.detector.detect([photo.pixels for photo in photos])
    with clock.stage("align"):
        matrices = [[alignment(face.landmarks) for face in faces] for faces in found]
        crops = [align(photo.pixels, matrix) for photo, own in zip(photos, matrices, strict=True) for matrix in own]
    deltas = _perturb(crops, filter, clock)
    with clock.stage("paste"):
        return [
            _paste_back(photo, faces, own, [deltas.pop(0) for _ in own], filter)
            for photo, faces, own in zip(photos, found, matrices, strict=True)
        ]


def protect_photo(data: bytes, filter: Filter, *, limits: Limits | None = None) -> ProtectedPhoto:
    """Protect one encoded photo.

    Args:
        data: a JPEG, PNG, WebP, HEIC, AVIF or TIFF; the same format comes out.
        limits: the largest photo to take, in bytes and pixels.

    Raises:
        PhotoError: the photo is corrupt, unsupported or too large; nothing comes out.
    """
    photo = decode(data, limits or Limits(), keep_metadata=filter.recipe.keep_metadata)
    protected = protect_batch([photo], filter)[0]
    encoded = encode_protected(protected, filter)
    return ProtectedPhoto(
        data=encoded,
        faces=protected.faces,
        outcome=protected.outcome,
        width=photo.header.width,
        height=photo.header.height,
        bytes_in=len(data),
        bytes_out=len(encoded),
    )


def encode_protected(protected: ProtectedPixels, filter: Filter) -> bytes:
    """Encode in the source's own format, under the recipe's JPEG policy."""
    return encode(protected.photo, protected.pixels, jpeg_floor_quality=filter.recipe.jpeg_floor_quality)


def _perturb(crops: list[np.ndarray], filter: Filter, clock: StageClock) -> list[np.ndarray]:
    if not crops:
        return []
    faces = torch.from_numpy(np.stack(crops)).to(filter.device)  # (B, 3, 112, 112)
    return list(filter.perturbation(faces, clock).cpu().numpy())


def _paste_back(
    photo: Photo, faces: Sequence[Face], matrices: list[np.ndarray], deltas: list[np.ndarray], filter: Filter
) -> ProtectedPixels:
    pixels = photo.pixels
    if faces:
        levels = filter.recipe.epsilon_levels
        pixels = paste(pixels, deltas, matrices, epsilon_levels=levels, grey=photo.grey)
    return ProtectedPixels(photo=photo, pixels=pixels, faces=tuple(faces))
