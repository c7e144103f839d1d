"""What the GPU's tables share: rates, the GPU's busy share, its memory, and photos from their bytes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from apf.photo import Limits, Photo, decode


def rate(work: Callable[[], object], items: int, seconds: float) -> float:
    """Items a second: once to warm up, then again and again for so long, at least twice; without time once alone."""
    if seconds:
        work()
    wait()
    runs, started = 0, time.perf_counter()
    while runs < (2 if seconds else 1) or time.perf_counter() - started < seconds:
        work()
        runs += 1
    wait()
    return runs * items / (time.perf_counter() - started)


@contextmanager
def busy_share() -> Iterator[list[float]]:
    """Samples of the percentage of time in which the GPU ran anything, as its driver says; none without nvidia-smi."""
    samples: list[float] = []
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=200"]
    try:
        watching = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        yield samples
        return
    try:
        yield samples
    finally:
        watching.terminate()
        lines, _ = watching.communicate()
        samples += [float(line) for line in lines.splitlines() if line.strip().isdigit()]


def decoded(data: bytes) -> Photo:
    return decode(data, Limits(), keep_metadata=())


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_gb() -> float | None:
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
