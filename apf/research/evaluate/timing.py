"""What a method costs: the same few faces through every method, in turns, in one process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

import torch
from torch import Tensor
from tqdm import tqdm

from apf.research.evaluate.crops import Timing
from apf.research.evaluate.methods import Method
from apf.research.evaluate.rivals.types import Perturb


def timings(methods: Sequence[Method], faces: Tensor, *, runs: int = 3) -> dict[str, Timing]:
    """Milliseconds a face of each method, by name.

    Each method is built and called on one face first. The methods then take turns, so that whatever else the machine
    does meets all of them. Of several runs the minimum is the one that other work disturbed least.

    Args:
        faces: (N, 3, 112, 112) float32 in [0, 1], all given to the method at once.
        runs: how often each method runs.
    """
    built = {method.name: method.build() for method in methods}
    seconds: dict[str, list[float]] = {name: [] for name in built}
    turns = [(name, perturb) for _ in range(runs) for name, perturb in built.items()]
    for perturb in tqdm(built.values(), desc="warming up", leave=False):
        _run(perturb, faces[:1])
    for name, perturb in tqdm(turns, desc="timing", leave=False):
        seconds[name].append(_run(perturb, faces))
    return {name: _timing(own, len(faces)) for name, own in seconds.items()}


def _run(perturb: Perturb, faces: Tensor) -> float:
    """Seconds until the perturbation is really there, on the CPU."""
    start = time.perf_counter()
    perturb(faces).cpu()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _timing(seconds: list[float], faces: int) -> Timing:
    each = [1000 * run / faces for run in seconds]
    return Timing(minimum_ms=min(each), median_ms=median(each), faces=faces, runs=len(each))
