"""CenterFace on a GPU: tiles of one shape together, pixels up and maps down while it computes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from apf.detection.centerface_maps import TILE, by_shape, decode
from apf.detection.tiling import Found
from apf.faces.alignment import UInt8
from apf.runtime.cuda.batches import TILE_BATCHES, limit
from apf.runtime.cuda.memory import find_limit, free_memory, in_batches

#: Channels of the heatmap, scale, offset and landmarks, which come back as one tensor.
MAPS = [1, 2, 2, 10]


class _Launched(NamedTuple):
    """A batch on its way."""

    indices: list[int]
    #: (B, 15, h, w) float32 on the host, filled once `done` has happened; B may be larger than the batch.
    maps: Tensor
    done: torch.cuda.Event | None


class TileBatches:
    """Finds faces in many tiles: all batches are launched, then read in turn while the GPU goes on with the rest.

    As in `apf.filters.cuda_runner`, a batch is filled up to one of a few sizes; with other tiles beside it, a tile's
    maps may differ by rounding. Computes in float32: what it finds is where faces are aligned.
    """

    def __init__(self, net: torch.nn.Module, device: torch.device) -> None:
        self._net, self._device = net, device
        self._is_cuda = device.type == "cuda"
        #: Copies go beside the work.
        self._copies = torch.cuda.Stream(device) if self._is_cuda else None  # type: ignore[no-untyped-call]
        self.limit = limit(str(device), "tiles")

    def find(self, tiles: Sequence[UInt8]) -> list[Found]:
        """Faces in each (h, w, 3) uint8 RGB tile, of any size, with boxes inside the tile.

        Raises:
            DeviceMemoryError: the device has no memory for one tile.
        """
        with torch.inference_mode(), self._here():
            if self._is_cuda:
                find_limit(self.limit, TILE_BATCHES, self._trial, 1, self._device)
            launched = [one for shape, indices in by_shape(tiles).items() for one in self._all(tiles, indices, shape)]
            found = {i: one for batch in launched for i, one in self._read(batch, tiles).items()}
        return [found[i] for i in range(len(tiles))]

    def _all(self, tiles: Sequence[UInt8], indices: Sequence[int], shape: tuple[int, int]) -> list[_Launched]:
        """Launch the tiles of one shape."""

        def launch(start: int, stop: int, size: int) -> _Launched:
            own = list(indices[start:stop])
            return self._launch([tiles[i] for i in own], own, size, shape)

        return in_batches(len(indices), self.limit, TILE_BATCHES, launch, lambda: free_memory(self._device))

    def _launch(self, tiles: Sequence[UInt8], indices: list[int], size: int, shape: tuple[int, int]) -> _Launched:
        # Pinned memory is kept and used again by torch, which knows when the copy is over.
        host = torch.zeros((size, *shape, 3), dtype=torch.uint8, pin_memory=self._is_cuda)
        pixels = host.numpy()
        for slot, tile in zip(pixels, tiles, strict=False):
            slot[: tile.shape[0], : tile.shape[1]] = tile
        outputs = self._net(as_input(self._moved(host)))
        maps = torch.cat([output.float() for output in outputs], 1).contiguous()
        if not self._is_cuda:
            return _Launched(indices, maps, None)
        back = torch.empty(maps.shape, dtype=maps.dtype, pin_memory=True)
        back.copy_(maps, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()
        return _Launched(indices, back, done)

    def _moved(self, host: Tensor) -> Tensor:
        """Return the pixels on the device, by the stream for copies."""
        if self._copies is None:
            return host
        with torch.cuda.stream(self._copies):
            moved = host.to(self._device, non_blocking=True)
        work = torch.cuda.current_stream(self._device)
        work.wait_stream(self._copies)
        moved.record_stream(work)  # its memory is not used again before the work is through
        return moved

    def _read(self, batch: _Launched, tiles: Sequence[UInt8]) -> dict[int, Found]:
        if batch.done:
            batch.done.synchronize()
        parts = [part.numpy() for part in torch.split(batch.maps, MAPS, 1)]
        return {
            i: decode(*(part[row] for part in parts), size=tiles[i].shape[:2]) for row, i in enumerate(batch.indices)
        }

    def _trial(self) -> Tensor:
        """One tile of the largest size."""
        empty = torch.zeros((1, TILE, TILE, 3), dtype=torch.uint8, device=self._device)
        return torch.cat([output.float() for output in self._net(as_input(empty))], 1)

    def _here(self) -> AbstractContextManager[object]:
        return torch.cuda.device(self._device) if self._is_cuda else nullcontext()


def as_input(pixels: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 as what the network was trained on: (B, 3, H, W) float32, 0..255, channels last."""
    return pixels.permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last)
