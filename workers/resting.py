"""Receivers that kept this process waiting for nothing, and are left alone for a while.

A worker that posts a callback protects no photo meanwhile, so a receiver that hangs must not cost its time-out for each
of many callbacks. Known to this process alone: it is forgotten with it, and no harm done.
"""

from __future__ import annotations

import time

#: A try that failed after longer than this kept us waiting.
LONG_S = 1.0
REST_S = 60.0
#: Receivers that are remembered: whoever names ever new ones fills no memory.
MOST = 1000

_until: dict[str, float] = {}


def rest_s(origin: str) -> float:
    """Seconds for which the receiver is still left alone; 0 for one that may be tried."""
    return max(0.0, _until.get(origin, 0.0) - time.monotonic())


def note(origin: str, waited_s: float, *, answered: bool) -> None:
    """A try ended after so long."""
    if answered or waited_s < LONG_S:
        _until.pop(origin, None)
        return
    while len(_until) >= MOST:
        del _until[next(iter(_until))]
    _until[origin] = time.monotonic() + REST_S


def forget() -> None:
    """All of them may be tried."""
    _until.clear()
