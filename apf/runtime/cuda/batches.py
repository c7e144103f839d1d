"""Batch sizes on a GPU: a few fixed ones, none larger than what fits. Without torch."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cache

from apf.errors import DeviceMemoryError

#: Faces of a batch. Few sizes, because each has its own kernels and its own CUDA graph, which holds memory.
FACE_BATCHES = (8, 32, 128, 512)
#: Tiles of a batch of the detector: a tile of a megapixel keeps a GPU busy by itself.
TILE_BATCHES = (1, 2, 4, 8, 16)
#: The share of the free memory that one kind of work may take: graphs of several sizes, further recipes and the
#: detector want theirs.
SHARE = 0.25


class Limit:
    """The largest batch of one kind of work on one device. Only ever shrinks, once it was found."""

    def __init__(self) -> None:
        self._most: int | None = None
        self._lock = threading.Lock()

    @property
    def most(self) -> int | None:
        """None: not measured yet."""
        return self._most

    def find(self, most: int) -> None:
        """Note what a first trial says, which is at least one; later ones only count where they say less."""
        with self._lock:
            self._most = max(1, most if self._most is None else min(most, self._most))

    def halve(self, failed: int) -> None:
        """Remember that a batch of `failed` did not fit.

        Raises:
            DeviceMemoryError: not even one fits.
        """
        if failed <= 1:
            raise DeviceMemoryError(
                "the GPU has not enough free memory for a batch of one: end what else runs on it, or set APF_DEVICE=cpu"
            )
        with self._lock:
            self._most = failed // 2 if self._most is None else min(failed // 2, self._most)

    def within(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Those of the ascending sizes that fit, and the limit itself where it lies below the last of them."""
        if self._most is None or self._most >= sizes[-1]:
            return tuple(sizes)
        return (*(size for size in sizes if size < self._most), self._most)


@cache
def limit(device: str, work: str) -> Limit:
    """Return the process's limit for a kind of work on a device: one measurement serves all callers."""
    return Limit()


def next_batch(left: int, sizes: Sequence[int]) -> tuple[int, int]:
    """How many of `left` items go next, and the size that they are filled up to.

    All go into the smallest size that holds them, if they fill half of it; else as many as fill the next smaller one.

    Args:
        left: at least 1.
        sizes: ascending.
    """
    size = next((one for one in sizes if one >= left), sizes[-1])
    smaller = [one for one in sizes if one <= left]
    if smaller and left < size / 2:
        size = smaller[-1]
    return min(left, size), size


def fitting(free_bytes: float, bytes_each: float, sizes: Sequence[int], share: float = SHARE) -> int:
    """Return the largest of the sizes that takes no more than its share of memory; under the smallest, as many as do,
    or 1.
    """
    fits = int(share * free_bytes // max(bytes_each, 1))
    return max((size for size in sizes if size <= fits), default=max(1, fits))
