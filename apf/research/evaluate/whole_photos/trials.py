"""The face in a published photo, found and cut out anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from apf.detection.detector import Detector
from apf.faces.alignment import Box, Face, UInt8, align, alignment
from apf.research.evaluate.whole_photos.boxes import box_side, iou, scaled
from apf.research.evaluate.whole_photos.conditions import Condition

#: Least overlap of the face found again with the place where it was; below it, another face was found.
SAME_FACE_IOU = 0.3


def crops_of(
    published: UInt8,
    box: Box,
    conditions: Mapping[str, Condition],
    detector: Detector,
    other: Detector | None = None,
) -> dict[str, Tensor | None]:
    """Return the aligned face (3, 112, 112) in [0, 1] under each condition, by name; None where it is not found.

    Args:
        published: (H, W, 3) uint8 RGB.
        box: where the face was in the source, whose size is the same: it only tells which of several is meant.
        detector: finds the face anew in all that is sent.
        other: finds it where the condition asks for another detector; such conditions are left out without one.
    """
    crops: dict[str, Tensor | None] = {}
    looked: dict[tuple[object, bool], tuple[UInt8, Face | None]] = {}
    for name, condition in conditions.items():
        finder = other if condition.elsewhere else detector
        if finder is None:
            continue
        place = condition.sent, condition.elsewhere
        if place not in looked:
            sent = condition.sent(published)
            near = scaled(box, sent.shape[1] / published.shape[1])
            looked[place] = sent, nearest(finder.detect([sent])[0], near)
        pixels, face = looked[place]
        crops[name] = _crop(pixels, face, condition, box) if face else None
    return crops


def nearest(faces: Sequence[Face], near: Box) -> Face | None:
    """Return the face that overlaps a place most, if it does so at all well."""
    best = max(faces, key=lambda face: iou(face.box, near), default=None)
    return best if best and iou(best.box, near) >= SAME_FACE_IOU else None


def _crop(pixels: UInt8, face: Face, condition: Condition, box: Box) -> Tensor:
    side = box_side(face.box)
    if condition.purified:
        pixels = condition.purified(pixels, side)
    # A photo's face strays the same way whatever protects it.
    stray = np.random.default_rng([round(abs(edge)) for edge in box]).standard_normal((5, 2))
    matrix = alignment(np.array(face.landmarks) + condition.jitter * side * stray)
    return torch.from_numpy(align(pixels, matrix))
