"""YuNet (Wu, Peng and Yu, 2023) by ONNX Runtime on the CPU: a third of CenterFace's time, and less recall.

Its file (MIT) is in no commit and no wheel. It is fetched by its digest once it is asked for (`apf.guides.download`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from apf.detection.nms import nms
from apf.detection.tiling import SAME_FACE_IOU, Found
from apf.errors import DetectorError, DetectorUnreachable, GuideError, GuideUnreachable, WeightsError
from apf.faces.alignment import Float32, UInt8
from apf.guides.catalogue import YUNET
from apf.guides.download import pull
from apf.runtime.cores import side_by_side
from apf.runtime.onnx_session import RuntimeNetwork

#: Largest side of a tile that the network is given.
TILE = 1280
#: Least score of a face. At 0.4 a twentieth more of turned faces is found, and thrice as much that is none.
THRESHOLD = 0.5
#: Of its three grids, in input pixels; the input is filled up to the last.
STRIDES = (8, 16, 32)


class YuNet:
    """A `Network` on a tile for each core at a time."""

    tile = TILE

    def __init__(self) -> None:
        try:
            # The file says 640 x 640, and nothing in it depends on that.
            self._network = RuntimeNetwork.load(pull(YUNET), any_size=True)
        except (GuideError, WeightsError) as error:
            kind = DetectorUnreachable if isinstance(error, GuideUnreachable) else DetectorError
            raise kind(f"detector 'yunet' cannot be had: {error}") from error

    def find(self, tiles: Sequence[UInt8]) -> list[Found]:
        """Faces in each (h, w, 3) uint8 RGB tile, of any size, with boxes inside the tile."""
        return side_by_side(self._find, tiles)

    def _find(self, tile: UInt8) -> Found:
        height, width = tile.shape[:2]
        rows, columns = (-(-side // STRIDES[-1]) * STRIDES[-1] for side in (height, width))
        image = np.zeros((rows, columns, 3), np.float32)
        image[:height, :width] = tile[..., ::-1]  # it wants BGR, 0..255
        maps = self._network(input=image.transpose(2, 0, 1)[None])
        return decode(maps, columns=columns, size=(height, width))


def decode(maps: Mapping[str, Float32], *, columns: int, size: Sequence[int], threshold: float = THRESHOLD) -> Found:
    """One image's outputs, `cls_8` to `kps_32`, as faces in an input of (height, width) `size`.

    Args:
        maps: (1, cells, 1 | 1 | 4 | 10) each, cells row by row.
        columns: width of the input once filled up.
    """
    levels = [_level(maps, stride, columns // stride, threshold) for stride in STRIDES]
    boxes, points, scores = (np.concatenate(parts) for parts in zip(*levels, strict=True))
    boxes = np.clip(boxes, 0, np.array([size[1], size[0], size[1], size[0]], np.float32))
    # A box wholly in the padding is no face.
    shown = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    boxes, points, scores = boxes[shown], points[shown], scores[shown]
    keep = nms(boxes, scores, SAME_FACE_IOU)
    return Found(boxes[keep], points[keep], scores[keep])


def _level(maps: Mapping[str, Float32], stride: int, across: int, threshold: float) -> tuple[Float32, Float32, Float32]:
    """Boxes, landmarks and scores of one grid, `across` cells wide."""
    kind, is_there = (np.clip(maps[f"{name}_{stride}"][0, :, 0], 0, 1) for name in ("cls", "obj"))
    scores = np.sqrt(kind * is_there)
    (cells,) = np.nonzero(scores > threshold)
    corners = np.stack([cells % across, cells // across], axis=1).astype(np.float32)  # x, y
    box = maps[f"bbox_{stride}"][0, cells]
    middles, halves = (corners + box[:, :2]) * stride, np.exp(box[:, 2:]) * np.float32(stride / 2)
    # From the person's right eye to the left corner of the mouth, as all detectors here have them.
    points = (maps[f"kps_{stride}"][0, cells].reshape(-1, 5, 2) + corners[:, None]) * stride
    return np.concatenate([middles - halves, middles + halves], axis=1), points, scores[cells]
