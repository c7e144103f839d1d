"""CenterFace (Xu et al., 2019) as a torch module: weights under the MIT licence, run through onnx2torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from onnx2torch import convert

from apf.detection.centerface_cuda import TileBatches, as_input
from apf.detection.centerface_maps import TILE, decode, padded, weights_path
from apf.detection.tiling import Found
from apf.errors import DetectorError
from apf.faces.alignment import Float32, UInt8
from apf.runtime.torch_threads import each
from apf.weight_files import CURE


class CenterFace:
    """The `Network` behind the default detector on a GPU. On a CPU it serves as the reference of
    `apf.detection.centerface_onnx`.
    """

    tile = TILE

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        # Channels last halves a CPU's time.
        self._net = _load().to(self._device).to(memory_format=torch.channels_last)
        self._on_gpu = TileBatches(self._net, self._device) if self._device.type == "cuda" else None

    def find(self, tiles: Sequence[UInt8]) -> list[Found]:
        """Faces in each (h, w, 3) uint8 RGB tile, of any size, with boxes inside the tile."""
        if self._on_gpu:
            return self._on_gpu.find(tiles)
        # A CPU gains nothing from batches.
        return each(self._look, tiles, self._device)

    def _look(self, tile: UInt8) -> Found:
        return decode(*self._run(tile), size=tile.shape[:2])

    @torch.inference_mode()
    def _run(self, tile: UInt8) -> list[Float32]:
        """Heatmap (1, h, w), scale and offset (2, h, w), landmarks (10, h, w), at a quarter of the size."""
        filled = np.zeros((1, padded(tile.shape[0]), padded(tile.shape[1]), 3), np.uint8)
        filled[0, : tile.shape[0], : tile.shape[1]] = tile
        return [output[0].numpy() for output in self._net(as_input(torch.from_numpy(filled)))]


def _load() -> torch.nn.Module:
    path = weights_path()
    try:
        net: torch.nn.Module = convert(onnx.load(path))
    except (OSError, DecodeError) as error:
        raise DetectorError(f"CenterFace's weights cannot be read: {error}; {CURE}") from error
    return net.eval().requires_grad_(False)
