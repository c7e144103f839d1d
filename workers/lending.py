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
from pathlib import Path
from typing import TYPE_CHECKING

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


@dataclass(frozen=True)
class Lent:
    """A file in memory, of a fixed size, that the worker holds open; any process of its user reaches it by the path."""

    path: str

    def fill(self, photo: Photo) -> Filled:
        """In the decoder: put the photo's pixels here; raises OSError where the worker does not lend it any more."""
        import numpy as np  # noqa: PLC0415  the worker's parent has no use for it

        arrays = [photo.pixels] if photo.alpha is None else [photo.pixels, photo.alpha]
        file = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            with mmap.mmap(file, sum(array.nbytes for array in arrays)) as memory:
                for array in arrays:
                    memory.write(np.ascontiguousarray(array).data)
        finally:
            os.close(file)
        bare = replace(photo, pixels=np.zeros((0, 0, 3), np.uint8), alpha=None)
        return Filled(bare, photo.pixels.shape, photo.alpha is not None)

    def take(self, filled: Filled) -> Photo:
        """In the worker: the photo with its pixels, which hold the memory as long as they live.

        What is written into them is written into a copy of that page alone.
        """
        import numpy as np  # noqa: PLC0415

        height, width, channels = filled.shape
        area = height * width
        file = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            memory = mmap.mmap(file, area * (channels + filled.has_alpha), access=mmap.ACCESS_COPY)
        finally:
            os.close(file)
        pixels = np.frombuffer(memory, np.uint8, area * channels).reshape(filled.shape)
        alpha = None
        if filled.has_alpha:
            alpha = np.frombuffer(memory, np.uint8, area, area * channels).reshape(height, width)
        return replace(filled.photo, pixels=pixels, alpha=alpha)


@contextmanager
def lent(size: int) -> Iterator[Lent | None]:
    """Memory of this many bytes to lend while the block runs; None where the system (no Linux, no /proc) has none."""
    if sys.platform != "linux" or not Path("/proc/self/fd").is_dir():
        yield None
        return
    file = os.memfd_create("apf-photo", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(file, size)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        yield Lent(f"/proc/{os.getpid()}/fd/{file}")
    finally:
        os.close(file)
