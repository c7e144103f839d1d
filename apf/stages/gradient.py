"""Stage 1, gradient: steps on the probe, away from this photo's own embedding.

Momentum steps (MI-FGSM, Dong et al. 2018) under small shifts and turns (DI-FGSM, Xie et al. 2019) lower the probe's
similarity between the photo and what it becomes. They start from the universal perturbation: at the photo itself that
gradient is zero. No second photo and no random number is used. Nothing is clipped to the pixel range, which would show
where the photo is black or white.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from apf.stages.constants import AFFINE_STD, CELL, REACH, SOFTNESS, START, STEPS, TINY
from apf.stages.grid_sample import warp
from apf.stages.probe import Probe


def gradient(
    probe: Probe, faces: Tensor, epsilon: float, start: Tensor | None = None, *, differentiable: bool = False
) -> Tensor:
    """Where a few steps against the probe lead from each face, and where they would lead next.

    Args:
        probe: in eval mode; its BatchNorm runs on stored statistics, so batch mates do not matter.
        faces: (B, 3, 112, 112) float32 RGB in [0, 1].
        epsilon: the bound on the perturbation, in units of [0, 1] pixels.
        start: (B, 3, 112, 112) or broadcastable, in units of epsilon, within [-1, 1]; None: a fixed chequered pattern.
        differentiable: keep the graph, so that the probe and the start can be trained by where the steps lead.

    Returns:
        (B, 6, 112, 112) float32: the perturbation reached, in units of epsilon and within [-1, 1], and the momentum at
        unit root mean square.
    """
    begin = (_chequers(faces) if start is None else start).expand_as(faces)
    units, momentum = climb(probe, faces, begin, epsilon, steps=STEPS, differentiable=differentiable)
    return torch.cat([units, _unit(momentum)], 1)


def climb(
    probe: Probe,
    faces: Tensor,
    units: Tensor,
    epsilon: float,
    *,
    steps: int,
    reach: float = REACH,
    taken: int | None = None,
    differentiable: bool = False,
) -> tuple[Tensor, Tensor]:
    """Momentum steps away from the faces' own embeddings, from a perturbation in units of epsilon.

    Args:
        taken: stop after so many of the steps; None: take all.
        differentiable: keep the graph of all that is given.

    Returns:
        The perturbation reached (B, 3, 112, 112), in units of epsilon and within [-1, 1], and the momentum.
    """
    with torch.set_grad_enabled(differentiable):
        own = probe(faces)
    momentum = torch.zeros_like(faces)
    for grid in _grids(steps, faces.shape[-1], faces.device)[:taken].to(faces.dtype):
        seen = faces + epsilon * units
        momentum = momentum + _away(probe, seen if differentiable else seen.detach(), own, grid, differentiable)
        units = (units + reach / steps * _soft_sign(momentum)).clamp(-1, 1)
    return units, momentum


def as_perturbation(gradients: Tensor) -> Tensor:
    """Return the gradient stage by itself: the perturbation reached, (B, 3, 112, 112), which the bound's tanh gives
    back.
    """
    return torch.atanh(gradients[:, :3].clamp(-0.999, 0.999))


def _away(probe: Probe, seen: Tensor, own: Tensor, grid: Tensor, differentiable: bool) -> Tensor:
    """Return the gradient against the similarity to `own`, at unit mean size a face, through one grid (112, 112, 2)."""
    with torch.enable_grad():
        x = seen if seen.requires_grad else seen.requires_grad_(True)
        similarity = (probe(warp(x, grid.expand(len(x), -1, -1, -1))) * own).sum()
        (direction,) = torch.autograd.grad(-similarity, x, create_graph=differentiable)
    return at_unit_size(direction)


def at_unit_size(direction: Tensor) -> Tensor:
    """Each face's direction (B, 3, 112, 112) at unit mean absolute value; zero stays zero."""
    size = direction.abs().mean((1, 2, 3), keepdim=True)
    unit: Tensor = direction / size.clamp_min(TINY)
    return unit


def _soft_sign(momentum: Tensor) -> Tensor:
    """Sign, but for the smallest values, where a rounding error must not turn a step around."""
    return torch.tanh(SOFTNESS * at_unit_size(momentum))


def maps(steps: int) -> Tensor:
    """Return the affine maps of the steps, (steps, 2, 3), as `affine_grid` takes them: always the same ones."""
    spread = torch.randn(steps, 2, 3, generator=torch.Generator().manual_seed(steps))
    return torch.eye(2, 3) + AFFINE_STD * spread


@cache
def _grids(steps: int, size: int, device: torch.device) -> Tensor:
    """Return the affine maps of the steps, as grids (steps, size, size, 2): always the same ones.

    They are taken to the device once: a CUDA graph must not wait for a copy from the host.
    """
    if not steps:
        return torch.zeros(0, size, size, 2, device=device)
    with torch.autocast("cpu", enabled=False):  # places need all of float32
        return F.affine_grid(maps(steps), [steps, 3, size, size], align_corners=False).to(device)


def _chequers(faces: Tensor) -> Tensor:
    """(3, 112, 112): cells of some pixels of alternating sign, another phase for each colour."""
    rows = torch.arange(faces.shape[-1], device=faces.device) // CELL
    phase = torch.arange(3, device=faces.device)[:, None, None]
    return START * (1.0 - 2.0 * ((rows[:, None] + rows + phase) % 2))


def _unit(direction: Tensor) -> Tensor:
    """Each face's gradient at unit root mean square; zero stays zero."""
    size = direction.square().mean((1, 2, 3), keepdim=True).sqrt()
    unit: Tensor = direction / size.clamp_min(TINY)
    return unit
