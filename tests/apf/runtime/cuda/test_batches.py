"""How many go together: sizes, limits, and what fits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apf.errors import DeviceMemoryError
from apf.runtime.cuda.batches import FACE_BATCHES, TILE_BATCHES, Limit, fitting, limit, next_batch


@pytest.mark.parametrize(
    ("left", "taken", "size"),
    [(1, 1, 8), (8, 8, 8), (9, 8, 8), (15, 8, 8), (16, 16, 32), (32, 32, 32), (40, 32, 32), (64, 64, 128),
     (127, 127, 128), (200, 128, 128), (256, 256, 512), (513, 512, 512), (5000, 512, 512)],
)  # fmt: skip
def test_the_next_batch(left: int, taken: int, size: int) -> None:
    """A size is filled up where half of it is there, else the next smaller one goes first."""
    assert next_batch(left, FACE_BATCHES) == (taken, size)


@given(left=st.integers(1, 5000), sizes=st.sampled_from([FACE_BATCHES, TILE_BATCHES, (4,), (1,), (8, 32, 64)]))
def test_all_are_taken_with_little_padding(left: int, sizes: tuple[int, ...]) -> None:
    """Every item goes exactly once, and no batch but one of the smallest size is less than half full."""
    while left:
        taken, size = next_batch(left, sizes)
        assert 0 < taken <= size and size in sizes
        assert size == sizes[0] or taken >= size / 2
        left -= taken
    assert left == 0


def test_a_limit_only_shrinks() -> None:
    """A trial finds it, failures halve it, and neither a later trial nor the failure of something smaller raises it."""
    found = Limit()
    assert found.within(FACE_BATCHES) == FACE_BATCHES
    found.find(128)
    assert found.within(FACE_BATCHES) == (8, 32, 128)
    found.halve(128)
    assert found.within(FACE_BATCHES) == (8, 32, 64)
    found.find(512)
    found.halve(512)
    assert found.most == 64
    found.halve(8)
    assert found.within(FACE_BATCHES) == (4,)
    found.halve(4)
    found.halve(2)
    assert found.within(FACE_BATCHES) == (1,)
    with pytest.raises(DeviceMemoryError, match="APF_DEVICE=cpu"):
        found.halve(1)


def test_a_limit_is_of_the_process() -> None:
    """Whoever does the same work on the same device shares what was found; other work and devices do not."""
    assert limit("cuda:9", "faces") is limit("cuda:9", "faces")
    assert limit("cuda:9", "faces") is not limit("cuda:8", "faces")
    assert limit("cuda:9", "faces") is not limit("cuda:9", "tiles")


@pytest.mark.parametrize(
    ("free", "each", "most"),
    [
        (80e9, 10e6, 512),
        (8e9, 10e6, 128),
        (2e9, 10e6, 32),
        (320e6, 10e6, 8),
        (200e6, 10e6, 5),
        (1e6, 10e6, 1),
        (1, 0, 1),
    ],
)
def test_what_fits(free: float, each: float, most: int) -> None:
    """The largest size within a quarter of the free memory; under the smallest, as many as go; never none."""
    assert fitting(free, each, FACE_BATCHES) == most
