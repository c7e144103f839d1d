"""Recognisers as the steps of a batch see through them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from apf.attack.gradient_steps import TINY


@dataclass(frozen=True)
class Seer:
    """A recogniser on the device."""

    #: Crops (N, 3, 112, 112) to unit embeddings (N, D), in float32; and as the steps climb on it, maybe coarser.
    network: nn.Module
    climbed: nn.Module
    centre: Tensor
    threshold: float


def identity(seer: Seer, crop: Tensor) -> Tensor:
    """As `apf.attack.gradient_steps.identity`, (B, D)."""
    found: Tensor = seer.network(crop)
    return unit(found - seer.centre)


def unit(found: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(found, dim=1, keepdim=True)
    return found / length.clamp_min(TINY)
