"""Memory that the worker lends to a decoder, to write a photo's pixels into: they are not copied through a pipe.

The worker makes it and seals its size, so that whatever a decoder does to it, reading it is safe. Only pages that are
written cost anything, so it may be lent large.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.reduction import DupFd
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apf.photo import Photo

#: RGB and alpha.
BYTES_PER_PIXEL = 4


@dataclass(frozen=True)
class Filled:
    """A photo whose pixels lie in lent memory: first the RGB, then the alpha where it has one."""

    photo: Photo
    shape: tuple[int, ...]
    has_alpha: bool


class Lent:
    """A file in memory, of a fixed size. Sent to another process it is the same memory there."""

    def __init__(self, file: int) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (DupFd(self._file),)

    def fill(self, photo: Photo) -> Filled:
        """In the decoder, once: put the photo's pixels here."""
        import numpy as np  # noqa: PLC0415  the worker's parent has no use for it

        arrays = [photo.pixels] if photo.alpha is None else [photo.pixels, photo.alpha]
        with mmap.mmap(self._file, sum(array.nbytes for array in arrays)) as memory:
            for array in arrays:
                memory.write(np.ascontiguousarray(array).data)
        os.close(self._file)
        bare = replace(photo, pixels=np.zeros((0, 0, 3), np.uint8), alpha=None)
        return Filled(bare, photo.pixels.shape, photo.alpha is not None)

    def take(self, filled: Filled) -> Photo:
        """In the worker: the photo with its pixels, which hold the memory as long as they live.

        What is written into them is written into a copy of that page alone.
        """
        import numpy as np  # noqa: PLC0415

        height, width, channels = filled.shape
        area = height * width
        memory = mmap.mmap(self._file, area * (channels + filled.has_alpha), access=mmap.ACCESS_COPY)
        pixels = np.frombuffer(memory, np.uint8, area * channels).reshape(filled.shape)
        alpha = None
        if filled.has_alpha:
            alpha = np.frombuffer(memory, np.uint8, area, area * channels).reshape(height, width)
        return replace(filled.photo, pixels=pixels, alpha=alpha)


@contextmanager
def lent(size: int) -> Iterator[Lent | None]:
    """Memory of this many bytes to lend while the block runs; None where the system (no Linux) has none of the kind."""
    if sys.platform != "linux":
        yield None
        return
    file = os.memfd_create("apf-photo", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(file, size)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        yield Lent(file)
    finally:
        os.close(file)


def _received(sent: Any) -> Lent:
    return Lent(sent.detach())
