"""Return freed memory to the system: glibc keeps it where blocks that live on lie in between.

A worker's threads allocate photos of all sizes, of which the heaps come to hold more free memory than used: tens of
mebibytes more in an hour, though nothing is left of any photo.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache

#: It takes some milliseconds, and what is given back is asked for again.
EVERY_S = 60.0

_lock = threading.Lock()
_last_s = 0.0


def trim_heap(every_s: float = EVERY_S) -> bool:
    """Give what is free back to the system, unless that was done in the last `every_s` seconds; whether it was done."""
    global _last_s  # noqa: PLW0603  the heap is the process's, and so is this
    with _lock:
        now_s = time.monotonic()
        if _last_s and now_s - _last_s < every_s:
            return False
        _last_s = now_s
    trim = _malloc_trim()
    if trim is None:
        return False
    trim(0)
    return True


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    """glibc's; other C libraries have none, and give back by themselves."""
    with suppress(OSError, AttributeError):
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
        return trim
    return None
