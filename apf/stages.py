"""How the three stages make one perturbation: the same for the filter and for their training."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import get_args

import torch
from torch import Tensor

from apf.gradient import as_perturbation, gradient
from apf.models.probe import Probe
from apf.models.unet import TransferNet
from apf.recipe import Stage
from apf.transfer import transfer
from apf.universal import bounded, combine, universal

#: All stages, by name.
STAGES: tuple[str, ...] = get_args(Stage)

#: Runs one stage's work, by name; who measures or waits for a device does it there.
Run = Callable[[str, Callable[[], Tensor]], Tensor]


def join_stages(
    probe: Probe,
    network: TransferNet,
    uap: Tensor,
    faces: Tensor,
    epsilon: float,
    stages: Collection[str],
    *,
    differentiable: bool = False,
    run: Run = lambda _, work: work(),
) -> Tensor:
    """The perturbation of faces by the stages that are named; the universal part is where the gradient's steps start.

    Args:
        uap: (3, 112, 112), in units of epsilon and not bounded yet.
        faces: (B, 3, 112, 112) float32 RGB in [0, 1].
        epsilon: the bound, in units of [0, 1] pixels.
        stages: some of `STAGES`; `transfer` only with `gradient`.
        differentiable: keep the graph through the steps on the probe, to train the probe and their start by.
        run: called with each stage's name and work.

    Returns:
        (B, 3, 112, 112), no value larger than epsilon.
    """
    parts: list[Tensor] = []
    start = None
    if "universal" in stages:
        parts.append(run("universal", lambda: universal(uap, len(faces))))
        start = bounded(parts) if differentiable else bounded(parts).detach()
    if "gradient" in stages:
        found = run("gradient", lambda: gradient(probe, faces, epsilon, start, differentiable=differentiable))
        if "transfer" in stages:
            given = found.contiguous(memory_format=torch.channels_last)
            parts.append(run("transfer", lambda: transfer(network, given)))
        else:
            parts = [as_perturbation(found)]  # it went on from the universal part
    return run("universal", lambda: combine(parts, epsilon))
