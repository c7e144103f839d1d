"""Stand-ins for recording a CUDA graph (`apf.runtime.cuda.graph.captured`), where there is no GPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def static(work: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """As a graph behaves: the result lies always at the same place, and is overwritten."""
    place = work()

    def replay() -> Tensor:
        return place.copy_(work())

    return replay


def warmed(work: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """As `static`, of work that is done several times at first."""
    for _ in range(2):
        work()
    return static(work, device)


def refused(work: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
