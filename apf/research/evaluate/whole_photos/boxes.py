"""The size and the place of faces' boxes."""

from __future__ import annotations

import math

from apf.faces.alignment import Box


def box_side(box: Box) -> float:
    """Geometric mean of a box's width and height."""
    return math.sqrt((box[2] - box[0]) * (box[3] - box[1]))


def scaled(box: Box, factor: float) -> Box:
    """Return the box in a photo whose sides are `factor` times as long."""
    return box[0] * factor, box[1] * factor, box[2] * factor, box[3] * factor


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (box_side(a) ** 2 + box_side(b) ** 2 - width * height)
