"""Detect in a photo of any size: at a coarse scale for large faces, in finer tiles for small ones.

A detector's network sees only tiles of bounded size. What it finds in them is taken back to the photo and merged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from apf.detection.nms import nms
from apf.faces.alignment import Face, Float32, Float64, UInt8, face_from
from apf.faces.resampling import reduce_area

#: A photo with more pixels is reduced to this many for its fine level. It sets both the time and the smallest face.
FINE_PIXELS = 3_000_000
#: Long side of the coarse level, which finds the faces that no tile holds whole.
COARSE_SIDE = 512
#: Tiles overlap by this much, so that a face up to this size is whole in one. Larger ones the coarse level sees well.
OVERLAP = 192
#: Two boxes with more of their union in common are one face.
SAME_FACE_IOU = 0.3
#: A box with more of itself inside a stronger one is a part of that face, seen at another scale or cut by a tile.
PART_OF_FACE = 0.75
#: The same for a box that a tile's inner edge cuts: of that, little is needed to know the whole.
PART_OF_FACE_CUT = 0.4


class Found(NamedTuple):
    """A network's finds in one tile, in the tile's pixels."""

    boxes: Float32  # (n, 4): x1, y1, x2, y2
    landmarks: Float32  # (n, 5, 2): x, y
    scores: Float32  # (n,)


class Network(Protocol):
    """Finds faces in tiles. What it finds in one must not depend on the others."""

    #: The largest side of a tile that it takes.
    tile: int

    def find(self, tiles: Sequence[UInt8]) -> list[Found]:
        """Faces in each (h, w, 3) uint8 RGB tile, sizes up to `tile`."""
        ...


@dataclass(frozen=True)
class Tile:
    """A part of a photo at some scale."""

    pixels: UInt8
    #: Of the tile's first pixel, in pixels of its level.
    left: int
    top: int
    #: Photo pixels a pixel of the level, across and down.
    step: tuple[float, float]
    #: Which edges (left, top, right, bottom) are not the photo's own.
    inner: tuple[bool, bool, bool, bool]

    def in_photo(self, points: Float32) -> Float64:
        """Tile coordinates (..., 2) as photo coordinates, pixel centres on whole numbers in both."""
        in_level = points.astype(np.float64) + np.array([self.left, self.top])
        moved: Float64 = (in_level + 0.5) * np.array(self.step) - 0.5
        return moved

    def cuts(self, boxes: Float32) -> NDArray[np.bool_]:
        """Which of (n, 4) boxes reach an inner edge: (n,) bool."""
        height, width = self.pixels.shape[:2]
        margins = boxes * np.array([1, 1, -1, -1]) + np.array([0, 0, width, height])
        reached: NDArray[np.bool_] = ((margins < 2) & np.array(self.inner)).any(axis=1)
        return reached


class PyramidDetector:
    """A `Detector` made of a network. A photo's faces depend on nothing but the photo."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def detect(self, images: Sequence[UInt8]) -> list[list[Face]]:
        """Return the faces of each (H, W, 3) uint8 RGB photo, strongest first.

        Raises:
            ValueError: an image has another shape or type, or no pixels.
        """
        for image in images:
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
                raise ValueError(f"a photo must be (H, W, 3) uint8 with pixels, not {image.shape} {image.dtype}")
        tiles = [list(tiles_of(image, self._network.tile)) for image in images]
        found = iter(self._network.find([tile.pixels for of_image in tiles for tile in of_image]))
        return [merge([(tile, next(found)) for tile in of_image]) for of_image in tiles]


def tiles_of(image: UInt8, tile: int) -> Iterator[Tile]:
    """All that is looked at of a photo: its coarse level where it has one, then the fine level's tiles."""
    fine = _reduced(image, min(1.0, math.sqrt(FINE_PIXELS / (image.shape[0] * image.shape[1]))))
    coarse_side, fine_side = min(COARSE_SIDE, tile), max(fine.shape[:2])
    if fine_side > tile or coarse_side < fine_side / 1.25:
        # Of the fine level, which has all that the coarse one needs: a large photo is gone through once.
        yield from _level(_reduced(fine, coarse_side / fine_side), image.shape, tile)
    yield from _level(fine, image.shape, tile)


def _reduced(image: UInt8, scale: float) -> UInt8:
    height, width = max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))
    while min(image.shape[0] / height, image.shape[1] / width) >= 2 and not any(side % 2 for side in image.shape[:2]):
        image = reduce_area(image, image.shape[1] // 2, image.shape[0] // 2)  # by whole pixels: a tenth of the time
    return image if (height, width) == image.shape[:2] else reduce_area(image, width, height)


def _level(level: UInt8, photo: Sequence[int], tile: int) -> Iterator[Tile]:
    """Yield the photo, of shape (H, W, 3), at the scale of a level, cut into the fewest tiles."""
    height, width = level.shape[:2]
    step = photo[1] / width, photo[0] / height
    for top, bottom in _spans(height, tile):
        for left, right in _spans(width, tile):
            inner = (left > 0, top > 0, right < width, bottom < height)
            yield Tile(level[top:bottom, left:right], left, top, step, inner)


def _spans(length: int, tile: int) -> list[tuple[int, int]]:
    """Overlapping spans, equally long, that cover [0, length)."""
    if length <= tile:
        return [(0, length)]
    count = math.ceil((length - OVERLAP) / (tile - OVERLAP))
    span = math.ceil((length + (count - 1) * OVERLAP) / count)
    starts = [round(i * (length - span) / (count - 1)) for i in range(count)]
    return [(start, start + span) for start in starts]


def merge(looks: Sequence[tuple[Tile, Found]]) -> list[Face]:
    """One face for each that the tiles of a photo show, strongest first."""
    boxes = np.concatenate([tile.in_photo(f.boxes.reshape(-1, 2, 2)).reshape(-1, 4) for tile, f in looks])
    landmarks = np.concatenate([tile.in_photo(f.landmarks) for tile, f in looks])
    scores = np.concatenate([f.scores for _, f in looks])
    cut = np.concatenate([tile.cuts(f.boxes) for tile, f in looks])
    # A cut box ranks below every whole one; it stays only where nothing else shows its face.
    kept: list[int] = []
    for i in nms(boxes, scores - 2.0 * cut, SAME_FACE_IOU).tolist():
        limit = PART_OF_FACE_CUT if cut[i] else PART_OF_FACE
        if all(_inside(boxes[i], boxes[j]) <= limit for j in kept):
            kept.append(i)
    return [face_from(tuple(boxes[i]), landmarks[i], scores[i]) for i in sorted(kept, key=lambda i: -scores[i])]


def _inside(box: Float64, other: Float64) -> float:
    """Return the share of a box's area that lies in another."""
    width, height = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    area = (box[2] - box[0]) * (box[3] - box[1])
    return float(max(0.0, width) * max(0.0, height) / area)
