"""Non-maximum suppression. NumPy only, as the device that computes gradients has no torchvision."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def nms(boxes: NDArray[np.floating], scores: NDArray[np.floating], iou: float) -> NDArray[np.intp]:
    """Return the boxes that no stronger kept one overlaps, strongest first; of equals the earlier one counts as
    stronger.

    Args:
        boxes: (n, 4), x1, y1, x2, y2.
        scores: (n,).
        iou: intersection over union from which on (exclusively) two boxes are one.

    Returns:
        Indices of the boxes kept.
    """
    x1, y1, x2, y2 = boxes.astype(np.float64).reshape(-1, 4).T
    areas = (x2 - x1) * (y2 - y1)
    left = np.argsort(-scores.astype(np.float64), kind="stable")
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        width = np.minimum(x2[best], x2[left]) - np.maximum(x1[best], x1[left])
        height = np.minimum(y2[best], y2[left]) - np.maximum(y1[best], y1[left])
        common = width.clip(0) * height.clip(0)
        left = left[common <= iou * (areas[best] + areas[left] - common)]
    return np.array(kept, np.intp)
