"""Measure and bound a GPU's memory, and recover where it ends."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar
from weakref import WeakSet

import torch

from apf.runtime.cuda.batches import Limit, fitting, next_batch

logger = logging.getLogger(__name__)

#: How the libraries under torch say it, which torch passes on as a RuntimeError.
SAYINGS = ("CUDA error: out of memory", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED")

Result = TypeVar("Result")
Size = TypeVar("Size")
Batch = TypeVar("Batch")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error of torch means that the device has no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or any(saying in str(error) for saying in SAYINGS)


def in_batches(
    count: int,
    limit: Limit,
    sizes: Sequence[int],
    attempt: Callable[[int, int, int], Result],
    let_go: Callable[[], None],
) -> list[Result]:
    """Do `count` items in batches that fit; where one does not, go on with half of it, and remember that.

    Args:
        attempt: does the items from a start to a stop in a batch of a size, and may run out of memory.
        let_go: gives memory back, before the next attempt.

    Raises:
        DeviceMemoryError: one item alone does not fit.
    """
    done: list[Result] = []
    start, alone = 0, False
    while start < count:
        taken, size = next_batch(count - start, limit.within(sizes))
        failure = None
        try:
            done.append(attempt(start, start + taken, size))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            failure = str(error)
        if failure is None:
            start, alone = start + taken, False
            continue
        # Out here, as an exception that is being handled keeps the tensors of all its frames.
        let_go()
        if size == 1 and not alone:
            alone = True  # what other work had kept is free by now: one item may fit after all
            continue
        limit.halve(size)
        logger.warning(
            "a batch of %d does not fit into the GPU's memory, going on with %s: %s", size, limit.most, failure
        )
    return done


class GraphCache(Generic[Size, Batch]):
    """The batches and graphs of one kind of work, by size, which are kept for the next call until memory is needed.

    A call holds `lock` until the device is through with its work.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.batches: dict[Size, Batch] = {}
        with _caches_lock:
            _caches.add(self)

    def forget(self) -> None:
        """Drop them, unless another thread is at work with them: what still fits is made anew when it is needed."""
        if self.lock.acquire(blocking=False):
            try:
                self.batches.clear()
            finally:
                self.lock.release()


_caches: WeakSet[GraphCache[Any, Any]] = WeakSet()
_caches_lock = threading.Lock()


def free_memory(device: torch.device) -> None:
    """Give back all that is kept for later: graphs of every kind of work, torch's cache, and what is left of filters
    that are not used any more.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    with _caches_lock:
        caches = list(_caches)
    for graph_cache in caches:
        graph_cache.forget()
    gc.collect()
    if device.type == "cuda":
        with suppress(RuntimeError):  # before torch 2.12 a CUDA graph that failed leaves an allocator that refuses
            torch.cuda.empty_cache()


def find_limit(
    limit: Limit, sizes: Sequence[int], trial: Callable[[], object], count: int, device: torch.device
) -> None:
    """Find the largest batch that fits, by running `count` items once and seeing what they take; only the first time.

    A trial that fails is no error: the limit is half of its items then.
    """
    if limit.most is not None:
        return
    try:
        trial()  # loads libraries, whose memory is no item's
        taken = peak_bytes(trial, device) / count
        most = fitting(free_bytes(device), taken, sizes)
    except RuntimeError as error:
        logger.warning("the largest batch could not be measured, trying %d: %s", max(1, count // 2), error)
        most = max(1, count // 2)
    limit.find(most)


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """Return the most memory that a piece of work takes at once, on top of what is taken before. Starts torch's peak
    anew.
    """
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def free_bytes(device: torch.device) -> int:
    """Return what is left on the device, and what torch has reserved of it without using it."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
