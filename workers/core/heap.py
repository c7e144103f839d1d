"""The heap of glibc: when it keeps freed memory for what comes next, and when it returns it to the system.

An encoder's arrays are larger than any that glibc keeps by itself, so each photo pays for its pages anew: a third of
the time that a JPEG of 12 megapixels takes to encode. A worker's threads, on the other hand, allocate photos of all
sizes, of which the heaps come to hold more free memory than used: tens of mebibytes more in an hour, though nothing is
left of any photo. Other C libraries do neither, and need neither.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any

#: Trimming takes some milliseconds, and what is given back is asked for again.
EVERY_S = 60.0
#: Arrays from this size on are no heap's: their pages are new each time, but huge ones, as NumPy asks for them.
LARGE_BYTES = 4 * 2**20
#: A heap keeps so much that is free at its end: less would be asked for again with each photo.
TOP_BYTES = 64 * 2**20
#: The module whose networks have memory to give back.
NETWORKS = "apf.runtime.onnx_session"

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -3, -4, -8

_lock = threading.Lock()
_last_s = 0.0


def trim_heap(every_s: float = EVERY_S) -> bool:
    """Give what is free back to the system, the networks' memory included.

    Returns:
        Whether it was done: not where it was in the last `every_s` seconds, nor by another C library than glibc.
    """
    global _last_s  # noqa: PLW0603  the heap is the process's, and so is this
    with _lock:
        now_s = time.monotonic()
        if _last_s and now_s - _last_s < every_s:
            return False
        _last_s = now_s
    if NETWORKS in sys.modules:  # a process without networks has no need to load it
        import_module(NETWORKS).shrink_arena()  # once it is loaded, should another thread be at that
    trim = _glibc("malloc_trim")
    if trim is None:
        return False
    trim(0)
    return True


def limit_heaps(most: int) -> bool:
    """Have threads share so many heaps, and give large arrays back at once; whether this C library can do it.

    Else there are eight heaps for each core, and each comes to hold what the largest photos that any thread had there
    take: a third of a worker's memory within an hour.
    """
    option = _glibc("mallopt")
    chosen = {_M_ARENA_MAX: most, _M_MMAP_THRESHOLD: LARGE_BYTES, _M_TRIM_THRESHOLD: TOP_BYTES}
    return option is not None and all(option(name, value) for name, value in chosen.items())


def keep_freed(most_bytes: int) -> bool:
    """Keep up to so many freed bytes for the next arrays, whatever their size; whether this C library can do it.

    For a process of one thread: only the first thread's heap grows to any size.
    """
    option = _glibc("mallopt")
    return option is not None and bool(option(_M_MMAP_MAX, 0) and option(_M_TRIM_THRESHOLD, most_bytes))


@cache
def _glibc(name: str) -> Any:
    """One of its functions of two or fewer ints; None where the C library is another."""
    with suppress(OSError, AttributeError):
        return getattr(ctypes.CDLL(None), name)
    return None
