"""Shared by all CenterFace backends: the weights' path, and decoding of the output maps. Without torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from apf.detection.nms import nms
from apf.detection.tiling import SAME_FACE_IOU, Found
from apf.errors import DetectorError
from apf.faces.alignment import Float32, UInt8
from apf.weight_files import CURE, THIRD_PARTY_DIR

#: Largest side of a tile that the network is given.
TILE = 1280
#: Least score of a face. On real photos, the people photographed have 0.75 and more, those out of focus behind them 0.4
#: to 0.6; textures, animals, machines and landscapes stay below 0.37. A missed face is worse than a false one.
THRESHOLD = 0.4
#: The network halves its input five times.
STRIDE = 32
#: Input pixels a cell of its output.
CELL = 4


def weights_path() -> Path:
    """Return CenterFace's ONNX file (MIT).

    Raises:
        DetectorError: it is not there.
    """
    path = THIRD_PARTY_DIR / "centerface.onnx"
    if not path.is_file():
        raise DetectorError(f"CenterFace's weights are not at {path}: {CURE}")
    return path


def by_shape(tiles: Sequence[UInt8]) -> dict[tuple[int, int], list[int]]:
    """Which tiles, by index, are filled up to the same (height, width), and so can be looked at together."""
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, tile in enumerate(tiles):
        found[padded(tile.shape[0]), padded(tile.shape[1])].append(i)
    return found


def padded(length: int) -> int:
    """Return the length to which a tile is filled up."""
    return -(-length // STRIDE) * STRIDE


def decode(
    heatmap: Float32,
    scale: Float32,
    offset: Float32,
    landmarks: Float32,
    *,
    size: Sequence[int],
    threshold: float = THRESHOLD,
) -> Found:
    """One image's output maps, (1 | 2 | 2 | 10, h, w), as faces in an input of (height, width) `size`."""
    rows, columns = np.nonzero(heatmap[0] > threshold)
    scores = heatmap[0, rows, columns]
    heights, widths = np.exp(scale[:, rows, columns]) * np.float32(CELL)
    down, across = offset[:, rows, columns]
    x1 = (columns.astype(np.float32) + across + np.float32(0.5)) * CELL - widths / 2
    y1 = (rows.astype(np.float32) + down + np.float32(0.5)) * CELL - heights / 2
    boxes = np.stack([x1, y1, x1 + widths, y1 + heights], axis=1)
    # (10, n), y before x, in parts of the box: (n, 5, 2), x before y, in pixels.
    parts = landmarks[:, rows, columns].reshape(5, 2, -1).transpose(2, 0, 1)[..., ::-1]
    points = parts * np.stack([widths, heights], axis=1)[:, None] + boxes[:, None, :2]
    limit = np.array([size[1], size[0], size[1], size[0]], np.float32)
    boxes = np.clip(boxes, 0, limit)
    # A box wholly in the padding is no face.
    shown = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    boxes, points, scores = boxes[shown], points[shown], scores[shown]
    keep = nms(boxes, scores, SAME_FACE_IOU)
    return Found(boxes[keep], points[keep], scores[keep])
