"""CenterFace by ONNX Runtime, on a CPU and on the device: the same faces as the torch module finds, up to rounding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from apf.detection.centerface_graph import simplified
from apf.detection.centerface_maps import TILE, decode, padded, weights_path
from apf.detection.tiling import Found, PyramidDetector
from apf.errors import DetectorError, WeightsError
from apf.faces.alignment import UInt8
from apf.runtime.cores import side_by_side
from apf.runtime.onnx_session import RuntimeNetwork


class LightCenterFace:
    """The default detector's `apf.detection.tiling.Network`, on a tile for each core at a time."""

    tile = TILE

    def __init__(self) -> None:
        try:
            self._network = RuntimeNetwork.load(weights_path(), any_size=True, simplify=simplified)
        except WeightsError as error:
            raise DetectorError(f"CenterFace's weights cannot be used: {error}") from error

    def find(self, tiles: Sequence[UInt8]) -> list[Found]:
        """Faces in each (h, w, 3) uint8 RGB tile, of any size, with boxes inside the tile."""
        return side_by_side(self._find, tiles)

    def _find(self, tile: UInt8) -> Found:
        height, width = tile.shape[:2]
        image = np.zeros((padded(height), padded(width), 3), np.float32)
        image[:height, :width] = tile
        heatmap, scale, offset, landmarks = self._network(input_1=image.transpose(2, 0, 1)[None]).values()
        return decode(heatmap[0], scale[0], offset[0], landmarks[0], size=(height, width))


def light_detector() -> PyramidDetector:
    """Return the default detector without torch; raises DetectorError."""
    return PyramidDetector(LightCenterFace())
