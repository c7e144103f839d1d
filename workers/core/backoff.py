"""Waits that grow: before the next try of what failed for a reason that passes, and between polls of what runs."""

from __future__ import annotations

import random
from collections.abc import Iterator

#: Between the first two polls, for an upload; and how much longer each next wait is.
FIRST_POLL_S, POLLS_GROW = 0.1, 1.15


def backoff_s(failures: int, *, first_s: float, longest_s: float) -> float:
    """Return the seconds to wait after so many failures: twice as long each time, up to `longest_s`.

    Jitter takes up to a quarter off.
    """
    full = min(longest_s, first_s * 2.0 ** min(max(failures - 1, 0), 30))
    return full * random.uniform(0.75, 1)  # noqa: S311  jitter, no secret


def poll_pauses(longest_s: float) -> Iterator[float]:
    """Yield the seconds to wait between polls, up to `longest_s`, without an end."""
    pause_s = FIRST_POLL_S
    while True:
        yield min(pause_s, longest_s)
        pause_s = min(pause_s * POLLS_GROW, longest_s)
