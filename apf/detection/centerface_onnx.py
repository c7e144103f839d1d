"""CenterFace by NumPy, or by what else runs ONNX: the same faces as the torch module finds, up to rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from apf.detection.centerface_maps import TILE, decode, padded, weights_path
from apf.detection.tiling import Found, PyramidDetector
from apf.errors import DetectorError, WeightsError
from apf.faces.alignment import UInt8
from apf.runtime.numpy_net.network import Network, Runnable

#: A function of each of some items, in order.
Each = Callable[[Callable[[UInt8], Found], Iterable[UInt8]], Iterable[Found]]


class LightCenterFace:
    """The default detector's `apf.detection.tiling.Network`, on one tile at a time.

    Args:
        load: makes a network of the ONNX file.
        each: looks at the tiles, one after the other or side by side.
    """

    tile = TILE

    def __init__(self, load: Callable[[Path], Runnable] = Network.load, each: Each = map) -> None:
        self._each = each
        try:
            self._network = load(weights_path())
        except WeightsError as error:
            raise DetectorError(f"CenterFace's weights cannot be used: {error}") from error

    def find(self, tiles: Sequence[UInt8]) -> list[Found]:
        """Faces in each (h, w, 3) uint8 RGB tile, of any size, with boxes inside the tile."""
        return list(self._each(self._find, tiles))

    def _find(self, tile: UInt8) -> Found:
        height, width = tile.shape[:2]
        image = np.zeros((padded(height), padded(width), 3), np.float32)
        image[:height, :width] = tile
        heatmap, scale, offset, landmarks = self._network(input_1=image.transpose(2, 0, 1)[None]).values()
        return decode(heatmap[0], scale[0], offset[0], landmarks[0], size=(height, width))


def light_detector() -> PyramidDetector:
    """Return the default detector without torch; raises DetectorError."""
    return PyramidDetector(LightCenterFace())
