"""Rectangles of a photo, and maps between its pixels and the template's. Without torch.

A matrix is (2, 3) float64 and takes photo pixels to template pixels: (x, y), with (0, 0) at the first pixel's centre.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
#: x1, y1, x2, y2 in whole photo pixels, the last two excluded.
Rect = tuple[int, int, int, int]

#: Side of the aligned face, in template pixels.
CROP = 112


def scale_of(matrix: Float64) -> float:
    """Template pixels a photo pixel."""
    return float(np.hypot(matrix[0, 0], matrix[1, 0]))


def zoom(x_factor: float, y_factor: float, left: float = 0, top: float = 0) -> Float64:
    """(3, 3) from a reduced grid to the grid whose pixels it averaged, starting at pixel (left, top)."""
    return np.array([[x_factor, 0, left + (x_factor - 1) / 2], [0, y_factor, top + (y_factor - 1) / 2], [0, 0, 1]])


def square_depth(matrix: Float64, rect: Rect) -> Float32:
    """How many template pixels deep each pixel of a rectangle lies inside the crop: (h, w), negative outside."""
    x, y = np.arange(rect[0], rect[2]), np.arange(rect[1], rect[3])
    half = CROP / 2
    # From the crop's middle, so that float32 is enough.
    u, v = (
        np.add.outer((row[1] * y + (row[2] - half + 0.5)).astype(np.float32), (row[0] * x).astype(np.float32))
        for row in matrix
    )
    np.maximum(np.abs(u, out=u), np.abs(v, out=v), out=u)
    depth: Float32 = np.subtract(np.float32(half), u, out=u)
    return depth


def bounds_of(matrix: Float64, margin: int = 0) -> Rect:
    """Return the upright rectangle around the crop's square in the photo, not clipped."""
    low, high = -0.5, CROP - 0.5
    corners = np.array([[low, high, high, low], [low, low, high, high]])
    inside = np.linalg.solve(matrix[:, :2], corners - matrix[:, 2:])
    (x1, y1), (x2, y2) = np.floor(inside.min(axis=1)), np.ceil(inside.max(axis=1))
    return int(x1) - margin, int(y1) - margin, int(x2) + 1 + margin, int(y2) + 1 + margin


def clipped(rect: Rect, shape: Sequence[int]) -> Rect:
    return intersection(rect, (0, 0, shape[1], shape[0]))


def nonempty(rect: Rect, shape: Sequence[int]) -> Rect:
    """Return the rectangle within the photo; where it misses the photo altogether, the pixels nearest to it."""
    x1, y1 = min(max(rect[0], 0), shape[1] - 1), min(max(rect[1], 0), shape[0] - 1)
    return x1, y1, min(max(rect[2], x1 + 1), shape[1]), min(max(rect[3], y1 + 1), shape[0])


def intersection(a: Rect, b: Rect) -> Rect:
    x1, y1 = max(a[0], b[0]), max(a[1], b[1])
    return x1, y1, max(x1, min(a[2], b[2])), max(y1, min(a[3], b[3]))


def area(rect: Rect) -> int:
    return (rect[2] - rect[0]) * (rect[3] - rect[1])
