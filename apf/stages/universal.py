"""Stage 3, universal: a perturbation that is the same for every face, and the bound on the sum of all stages."""

from __future__ import annotations

import torch
from torch import Tensor


def universal(perturbation: Tensor, batch: int) -> Tensor:
    """Return the perturbation (3, 112, 112), in units of epsilon and not bounded yet, for a batch: (B, 3, 112, 112)."""
    return perturbation.expand(batch, *perturbation.shape)


def bounded(parts: list[Tensor]) -> Tensor:
    """Return the sum of the stages' perturbations (B, 3, 112, 112), in units of epsilon, within [-1, 1].

    Tanh instead of a cut: training finds a gradient everywhere, and few pixels end up at the very bound.
    """
    return torch.tanh(torch.stack(parts).sum(0))


def combine(parts: list[Tensor], epsilon: float) -> Tensor:
    """Return the stages' perturbations (B, 3, 112, 112), in units of epsilon, summed and then bounded: |delta| <=
    epsilon.
    """
    return limited(epsilon * bounded(parts), epsilon)


def limited(delta: Tensor, epsilon: float) -> Tensor:
    """Return the perturbation, cut so that |delta| <= epsilon holds exactly."""
    # float32(epsilon) may lie a hair above epsilon itself.
    limit = torch.nextafter(torch.tensor(epsilon, dtype=torch.float32), torch.tensor(0.0)).item()
    return delta.clamp(-limit, limit)
