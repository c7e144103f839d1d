"""The cores that this process may use, and work on them side by side. Without torch."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_share: list[int] = []
_here = threading.local()


def cores() -> int:
    """Return the cores that this process may use, at least 1: all that the system gives it, or what `use_cores`
    says.
    """
    return _share[0] if _share else available_cores()


def available_cores() -> int:
    """Return the cores that the system gives this process: a container's limit and `taskset` give fewer than there
    are.
    """
    try:
        found = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        found = os.cpu_count() or 1
    return max(1, math.ceil(min(found, _quota())))


def _quota(file: Path = Path("/sys/fs/cgroup/cpu.max")) -> float:
    """Return the cores' worth of time that a Linux container may take (cgroup v2); infinite where nothing limits it."""
    try:
        quota, period = file.read_text().split()
        return float(quota) / float(period)  # "max" is no number
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def use_cores(count: int) -> None:
    """Use this many cores from now on: processes that share a machine share its cores."""
    _share[:] = [max(1, count)]
    _pool.cache_clear()


def side_by_side(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Apply `function` to each item, in order, on as many threads as there are cores.

    Called within itself it is a loop: its threads wait for no thread, and what is outside already keeps the cores busy.
    """
    items = list(items)
    return [function(item) for item in items] if _alone(items) else list(_pool().map(function, items))


def with_idle_cores(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Apply `function` to each item, in order, on the calling thread, and on others that have nothing to do.

    For small work: it does not queue behind the large work of other callers.
    """
    items = list(items)
    if _alone(items):
        return [function(item) for item in items]
    lent = [_pool().submit(function, item) for item in items[1:]]
    first = function(items[0])
    rest = zip(items[1:], lent, strict=True)
    return [first, *(function(item) if one.cancel() else one.result() for item, one in rest)]


def _alone(items: Sequence[object]) -> bool:
    return len(items) < 2 or cores() == 1 or getattr(_here, "in_pool", False)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), thread_name_prefix="cores", initializer=_enter)


def _enter() -> None:
    _here.in_pool = True


# A forked child has the pool but none of its threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
