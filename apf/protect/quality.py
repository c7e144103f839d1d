"""Measure a photo before and after: how much changed, and how like themselves its faces stayed. Without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from apf.detection.detector import Detector
from apf.faces.alignment import Face, Float32, UInt8, align, alignment, footprint
from apf.photo import Photo

#: A unit vector of a face (3, 112, 112) float32 RGB in [0, 1].
Embedding = Callable[[Float32], Float32]
#: Differences are shown this many times larger.
GAIN = 10


class Eyes(Protocol):
    """The measures that comparing needs: `apf.protect.viewer.CpuEyes`."""

    @property
    def detector(self) -> Detector: ...

    def embedding(self, face: Float32) -> Float32: ...


@dataclass(frozen=True)
class Comparison:
    """One photo before and after."""

    name: str
    #: (H, W, 3) uint8 RGB, upright, both of one size.
    before: UInt8
    after: UInt8
    faces: tuple[Face, ...]
    #: Cosine under the probe of each face with itself, before and after; 1 is the same.
    similarities: tuple[float, ...]
    #: PSNR inside the faces, in dB; infinite where nothing changed, NaN where there is no face.
    psnr_db: float

    @property
    def caption(self) -> str:
        if not self.faces:
            return "no face found: copied"
        noun = "face" if len(self.faces) == 1 else "faces"
        return f"{len(self.faces)} {noun}, PSNR inside {self.psnr_db:.1f} dB, {_similarity_text(self.similarities)}"


def compare(name: str, before: Photo, after: Photo, faces: Sequence[Face], embedding: Embedding) -> Comparison:
    """Measure one photo, before and after, on the faces found before."""
    matrices = [alignment(face.landmarks) for face in faces]
    pairs = [np.stack([align(photo.pixels, matrix) for matrix in matrices]) for photo in (before, after) if matrices]
    inside = np.zeros(before.pixels.shape[:2], dtype=np.bool_)
    for matrix in matrices:
        inside |= footprint(matrix, before.pixels.shape)
    return Comparison(
        name=name,
        before=before.pixels,
        after=after.pixels,
        faces=tuple(faces),
        similarities=self_similarities(pairs[0], pairs[1], embedding) if pairs else (),
        psnr_db=psnr_db(before.pixels[inside], after.pixels[inside]),
    )


def self_similarities(before: Float32, after: Float32, embedding: Embedding) -> tuple[float, ...]:
    """Cosine between the probe's embeddings of (B, 3, 112, 112) faces before and after, in [-1, 1]."""
    return tuple(float(embedding(one) @ embedding(other)) for one, other in zip(before, after, strict=True))


def psnr_db(before: UInt8, after: UInt8) -> float:
    """Peak signal-to-noise ratio of 8-bit values in dB: infinite if they are equal, NaN if there are none."""
    if before.size == 0:
        return float("nan")
    error = float(np.mean((before.astype(np.float64) - after) ** 2))
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def difference(before: UInt8, after: UInt8) -> UInt8:
    """GAIN times the absolute difference, (H, W, 3) uint8: black where nothing changed."""
    levels = np.abs(after.astype(np.int16) - before) * GAIN
    shown: UInt8 = np.minimum(levels, 255).astype(np.uint8)
    return shown


def _similarity_text(similarities: Sequence[float]) -> str:
    if len(similarities) == 1:
        return f"similarity to itself {similarities[0]:.2f}"
    return f"similarity to itself {min(similarities):.2f} to {max(similarities):.2f}"
