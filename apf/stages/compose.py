"""Compose the three stages to one perturbation: the same for the filter and for their training."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import get_args

import torch
from torch import Tensor

from apf.stages.constants import CHANNELS, Stage
from apf.stages.gradient import as_perturbation, gradient
from apf.stages.probe import Probe
from apf.stages.transfer import transfer
from apf.stages.transfer_network import TransferNet
from apf.stages.universal import bounded, combine, universal

#: All stages, by name.
STAGES: tuple[str, ...] = get_args(Stage)

#: Runs one stage's work, by name: the place to measure it, or to wait for a device.
Run = Callable[[str, Callable[[], Tensor]], Tensor]


def at_once(_: str, work: Callable[[], Tensor]) -> Tensor:
    """Do a stage's work, and measure nothing."""
    return work()


def answered(
    probe: Probe,
    network: TransferNet,
    uap: Tensor,
    faces: Tensor,
    epsilon: float,
    stages: Collection[str],
    *,
    differentiable: bool = False,
    run: Run = at_once,
) -> tuple[Tensor, Tensor | None]:
    """Return the perturbation of faces by the stages that are named, and the momentum that a warp follows.

    The universal part is where the gradient's steps start.

    Args:
        uap: (3, 112, 112), in units of epsilon and not bounded yet.
        faces: (B, 3, 112, 112) float32 RGB in [0, 1].
        epsilon: the bound, in units of [0, 1] pixels.
        stages: some of `STAGES`; `transfer` only with `gradient`.
        differentiable: keep the graph through the steps on the probe, to train the probe and their start by.
        run: called with each stage's name and work.

    Returns:
        (B, 3, 112, 112), no value larger than epsilon; and the gradient stage's momentum, of the same shape, where that
        stage runs.
    """
    found = None
    if "gradient" in stages:
        start = start_of(uap, stages, len(faces), run)
        given = start if start is None or differentiable else start.detach()
        found = run("gradient", lambda: gradient(probe, faces, epsilon, given, differentiable=differentiable))
    delta = finish(network, uap, found, len(faces), epsilon, stages, run=run)
    return delta, None if found is None else found[:, CHANNELS // 2 :]


def start_of(uap: Tensor, stages: Collection[str], batch: int, run: Run = at_once) -> Tensor | None:
    """Where the gradient's steps start, (B, 3, 112, 112) in units of epsilon; None where nothing universal is added."""
    if "universal" not in stages:
        return None
    return bounded([run("universal", lambda: universal(uap, batch))])


def finish(
    network: TransferNet,
    uap: Tensor,
    gradients: Tensor | None,
    batch: int,
    epsilon: float,
    stages: Collection[str],
    *,
    run: Run = at_once,
) -> Tensor:
    """Return what is left to do once the gradient is known: the server's part of private mode, which never sees the
    faces.

    Args:
        gradients: (B, 6, 112, 112), as `apf.stages.gradient.gradient` gives them; None where that stage does not run.

    Returns:
        (B, 3, 112, 112), no value larger than epsilon.
    """
    parts: list[Tensor] = []
    if "universal" in stages:
        parts.append(universal(uap, batch))
    if gradients is not None and "transfer" in stages:
        given = gradients.contiguous(memory_format=torch.channels_last)
        parts.append(run("transfer", lambda: transfer(network, given)))
    elif gradients is not None:
        parts = [as_perturbation(gradients)]  # it went on from the universal part
    return run("universal", lambda: combine(parts, epsilon))
