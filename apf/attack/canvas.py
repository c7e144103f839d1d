"""The photo around one face as steps draw on it, with the bound of its pixels. Without torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from apf.attack.bound import Bound, bound_map
from apf.attack.outline import face_mask, rim
from apf.faces.alignment import Float32, UInt8, cut
from apf.faces.geometry import CROP, Float64, Rect, bounds_of, clipped, nonempty, scale_of, square_depth, zoom
from apf.faces.resampling import reduce_area

#: Pixels a template pixel that the photo around a face is reduced to, where it is larger.
DETAIL = 3.0
#: Template pixels around the crop that belong to the canvas: views look a little aside.
MARGIN = 12.0


def _around(matrix: Float64, shape: Sequence[int]) -> Rect:
    """Return the part of a photo of this shape that a face's canvas shows."""
    return nonempty(clipped(bounds_of(matrix, margin=math.ceil(MARGIN / scale_of(matrix))), shape), shape)


def canvas_size(matrix: Float64, shape: Sequence[int]) -> tuple[int, int]:
    """Return height and width of the canvas of a face in a photo of this shape."""
    x1, y1, x2, y2 = _around(matrix, shape)
    factor = max(1.0, 1 / (DETAIL * scale_of(matrix)))
    return max(1, round((y2 - y1) / factor)), max(1, round((x2 - x1) / factor))


class Canvas:
    """The photo around a face, reduced to `DETAIL` pixels a template pixel where it has more, with its bound.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        matrix: (2, 3), photo pixels to template pixels.
    """

    def __init__(self, pixels: UInt8, matrix: Float64, allowed: Bound) -> None:
        x1, y1, x2, y2 = _around(matrix, pixels.shape)
        height, width = canvas_size(matrix, pixels.shape)
        region = pixels[y1:y2, x1:x2]
        if (width, height) != (x2 - x1, y2 - y1):
            region = reduce_area(region, width, height)
        #: (3, 3), canvas pixels to photo pixels.
        self.to_photo = zoom((x2 - x1) / width, (y2 - y1) / height, x1, y1)
        #: (2, 3), canvas pixels to template pixels.
        self.matrix = matrix @ self.to_photo
        #: (h, w, 3) uint8 RGB.
        self.pixels = np.ascontiguousarray(region)
        self._allowed = allowed

    @cached_property
    def bound(self) -> Float32:
        """How far each pixel may move, in levels: (h, w) float32."""
        _, _, width, height = self.rect
        around = rim(self.matrix, width, height)
        return bound_map(self.pixels.astype(np.float32), scale_of(self.matrix), self._allowed, around)

    def template_bound(self) -> Float32:
        """How far each template pixel may move, in levels, faded out at the face's outline: (112, 112)."""
        found: Float32 = cut(self.bound[..., None], self.matrix, unit=1)[..., 0] * face_mask(CROP)
        return found

    @property
    def rect(self) -> Rect:
        """All of the canvas."""
        return 0, 0, self.pixels.shape[1], self.pixels.shape[0]

    def without_steps(self) -> Canvas:
        """Forget what only steps draw on, which is several times as much as the rest; returns the canvas."""
        for name in ("levels", "face", "places", "inside", "face_bound"):
            vars(self).pop(name, None)
        return self

    # What steps draw on again and again.
    @cached_property
    def levels(self) -> Float32:
        """The pixels as (h, w, 3) float32."""
        return self.pixels.astype(np.float32)

    @cached_property
    def face(self) -> tuple[slice, slice]:
        """Rows and columns around the crop's square: beyond it nothing is drawn."""
        x1, y1, x2, y2 = nonempty(bounds_of(self.matrix), self.pixels.shape)
        return slice(y1, y2), slice(x1, x2)

    @cached_property
    def places(self) -> tuple[Float32, Float32]:
        """Return x and y of each pixel of the face."""
        rows, columns = (np.arange(one.start, one.stop, dtype=np.float32) for one in self.face)
        x, y = np.meshgrid(columns, rows)
        return x, y

    @cached_property
    def inside(self) -> Float32:
        """Of each pixel of the face, 1 inside the crop's square and 0 beside it."""
        return inside_square(self.matrix, self.rect)[self.face]

    @cached_property
    def face_bound(self) -> Float32:
        """The bound of each pixel of the face, (h, w, 3), 0 beside the square: of one shape with what it multiplies."""
        return np.repeat((self.bound[self.face] * self.inside)[..., None], 3, axis=2)


def inside_square(matrix: Float64, part: Rect) -> Float32:
    """Of each pixel of a part of the photo, 1 inside the crop's square and 0 beside it."""
    return (square_depth(matrix, part) > 0).astype(np.float32)
