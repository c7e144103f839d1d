"""Run torch on a CPU: one thread a picture, as many pictures at once as there are cores.

Sums in torch's kernels depend, in the last bit, on how many threads share them. With one thread each, a photo comes out
the same on a machine of two cores and of sixty-four, whatever else the machine is doing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(function: Callable[[Item], Result], items: Iterable[Item], device: torch.device) -> list[Result]:
    """Apply `function` to each item, in order: side by side on a CPU, one after the other on a GPU."""
    if device.type != "cpu":
        return [function(item) for item in items]
    return list(_pool().map(function, items))


@cache
def _pool() -> ThreadPoolExecutor:
    # Threads that used torch before keep their number; ones that start later get 1, unless they set their own.
    return ThreadPoolExecutor(
        os.cpu_count(), thread_name_prefix="torch", initializer=torch.set_num_threads, initargs=(1,)
    )


# A forked child has the pool but none of its threads.
os.register_at_fork(after_in_child=_pool.cache_clear)
