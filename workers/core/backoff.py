"""Exponential backoff with jitter: the wait before the next try of what failed for a reason that passes."""

from __future__ import annotations

import random


def backoff_s(failures: int, *, first_s: float, longest_s: float) -> float:
    """Return the seconds to wait after so many failures: twice as long each time, up to `longest_s`; less jitter."""
    full = min(longest_s, first_s * 2.0 ** min(max(failures - 1, 0), 30))
    return full * random.uniform(0.75, 1)  # noqa: S311  jitter, no secret
