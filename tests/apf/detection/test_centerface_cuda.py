"""The GPU's batches of tiles, run on the CPU: each tile gets what it gets alone, whatever memory there is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from apf.detection.centerface_cuda import TileBatches
from apf.detection.centerface_torch import CenterFace
from apf.errors import DeviceMemoryError
from apf.runtime.cuda.batches import Limit

CPU = torch.device("cpu")


class Crowded(torch.nn.Module):
    """A network on a device that has room for so many tiles."""

    def __init__(self, net: torch.nn.Module, room: int) -> None:
        super().__init__()
        self.net, self.room, self.sizes = net, room, list[int]()

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        if len(images) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        found: Tensor = self.net(images)
        return found


@pytest.fixture(scope="module")
def alone() -> CenterFace:
    return CenterFace("cpu")


@pytest.fixture(scope="module")
def tiles(portrait: np.ndarray) -> list[np.ndarray]:
    """Six of one shape, with and without the face, two that are filled up to it, and one of another."""
    half = np.ascontiguousarray(portrait[::2, ::2])
    turned = [np.ascontiguousarray(np.roll(half, 40 * i, axis=1)) for i in range(5)]
    return [half, portrait[:200, :300], *turned, half[:240], half[:250, :230]]


def crowded(alone: CenterFace, room: int) -> tuple[TileBatches, Crowded]:
    net = Crowded(alone._net, room)
    batches = TileBatches(net, CPU)
    batches.limit = Limit()
    return batches, net


@pytest.mark.rotating
@pytest.mark.parametrize(("room", "most"), [(100, None), (8, None), (3, 2), (1, 1)])
def test_each_tile_gets_its_own(alone: CenterFace, tiles: list[np.ndarray], room: int, most: int | None) -> None:
    """In the order given, and as by itself but for rounding, in batches that shrink to what fits."""
    batches, net = crowded(alone, room)
    found, expected = batches.find(tiles), alone.find(tiles)
    assert sum(len(one.scores) for one in expected) >= 3
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.boxes, other.boxes, atol=0.05)
        np.testing.assert_allclose(one.landmarks, other.landmarks, atol=0.05)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-3)
    assert batches.limit.most == most
    assert max(size for size in net.sizes if size <= room) == (most or 8)


def test_no_tiles(alone: CenterFace) -> None:
    """Nothing in, nothing out."""
    assert crowded(alone, 1)[0].find([]) == []


def test_no_room_for_one(alone: CenterFace, tiles: list[np.ndarray]) -> None:
    """The error says that the GPU is full."""
    with pytest.raises(DeviceMemoryError, match="free memory"):
        crowded(alone, 0)[0].find(tiles[:1])
