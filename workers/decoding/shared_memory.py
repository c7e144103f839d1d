"""Shared memory for a decoder: the bytes that it reads, and room for the pixels that it answers.

The worker makes it of a fixed size, hands it over as a descriptor, and seals it against writing before it looks at what
the decoder wrote: from then on nothing changes in it. Only pages that are written cost anything, so it may be large.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from workers.decoding.decoder_protocol import BadAnswer

if sys.platform == "linux":
    import fcntl

#: Linux takes no more in one call.
_CHUNK = 2**30


class SharedPixels:
    """Some bytes of a fixed size in memory, that another process can be given as a descriptor."""

    def __init__(self, file: int, size: int, *, seals: bool) -> None:
        self.file = file
        self.size = size
        self._seals = seals

    def fill(self, parts: Iterable[bytes | memoryview]) -> None:
        """Write these one after the other, from the start."""
        write_all(self.file, parts)

    def seal(self) -> None:
        """No process writes here any more.

        Raises:
            BadAnswer: a decoder keeps it open for writing, or has sealed it otherwise.
        """
        if not self._seals:
            return
        try:
            fcntl.fcntl(self.file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        except OSError as error:
            raise BadAnswer(f"the lent memory cannot be sealed ({error.strerror})") from error

    def take(self, size: int) -> mmap.mmap | bytearray:
        """Return the first bytes, which may be written to: what is written goes into a copy of that page alone.

        They stay as long as they are held, whatever becomes of the file.
        """
        if self._seals:
            return mmap.mmap(self.file, size, access=mmap.ACCESS_COPY)
        return bytearray(self.read(size))  # without seals only a copy is safe

    def read(self, size: int) -> bytes:
        """Return a copy of the first bytes."""
        return read_all(self.file, size)


def read_all(file: int, size: int, at: int = 0) -> bytes:
    """So many bytes of a file, from this place on; fewer where it is shorter."""
    found = b""
    while len(found) < size and (part := os.pread(file, min(size - len(found), _CHUNK), at + len(found))):
        found = part if len(part) == size else found + part
    return found


def write_all(file: int, parts: Iterable[bytes | memoryview]) -> None:
    """Write these at the start of a file, one after the other."""
    at = 0
    for part in parts:
        left = memoryview(part).cast("B")
        while left:
            written = os.pwrite(file, left[:_CHUNK], at)
            left, at = left[written:], at + written


@contextmanager
def shared_pixels(size: int) -> Iterator[SharedPixels]:
    """Memory of this many bytes to lend while the block runs."""
    if sys.platform != "linux":  # a file without a name: nothing keeps it as it is, so what is read is copied
        with tempfile.TemporaryFile() as file:
            file.truncate(size)
            yield SharedPixels(file.fileno(), size, seals=False)
        return
    memory = os.memfd_create("apf-photo", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(memory, size)
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        yield SharedPixels(memory, size, seals=True)
    finally:
        os.close(memory)
