"""Stage 3, universal: a perturbation that is the same for every face, and the bound on the sum of all stages."""

from __future__ import annotations

import torch
from torch import Tensor


def universal(perturbation: Tensor, batch: int) -> Tensor:
    """The perturbation (3, 112, 112), in units of epsilon and not bounded yet, for a batch: (B, 3, 112, 112)."""
    return perturbation.expand(batch, *perturbation.shape)


def combine(parts: list[Tensor], epsilon: float) -> Tensor:
    """The stages' perturbations (B, 3, 112, 112), in units of epsilon, summed and then bounded: |delta| <= epsilon.

    Tanh instead of a cut: training finds a gradient everywhere, and few pixels end up at the very bound.
    """
    delta = epsilon * torch.tanh(torch.stack(parts).sum(0))
    # float32(epsilon) may lie a hair above epsilon itself.
    limit = torch.nextafter(torch.tensor(epsilon, dtype=torch.float32), torch.tensor(0.0)).item()
    return delta.clamp(-limit, limit)
