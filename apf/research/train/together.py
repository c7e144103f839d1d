"""One training by several processes of one thread each, as `torchrun` starts them: each has its share of every batch.

Threads of one process wait for each other at every operation, which costs most of the time where other work takes
cores; these wait once a step.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor


def begin() -> None:
    """Join the others, if there are any."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("gloo")


def end() -> None:
    """Leave the others."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """Which of the processes this is; the first, 0, writes files."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def agreed(value: float) -> float:
    """Return the first process's value."""
    if size() == 1:
        return value
    told = torch.tensor([value], dtype=torch.float64)
    dist.broadcast(told, 0)
    return float(told)


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace each parameter's gradient by its mean over the processes; one that has none counts as zero."""
    if size() == 1:
        return
    own = list(parameters)
    flat = torch.cat([(torch.zeros_like(one) if one.grad is None else one.grad).reshape(-1) for one in own])
    dist.all_reduce(flat)
    flat /= size()
    for one, mean in zip(own, torch.split(flat, [one.numel() for one in own]), strict=True):
        one.grad = mean.view_as(one).clone(memory_format=torch.preserve_format)
