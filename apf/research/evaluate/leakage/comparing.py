"""The attack without training: whoever holds the probe computes the gradients of photos that it has, and compares."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from apf.private.quantise import Float32


def alignments(seen: Float32, known: Float32) -> Tensor:
    """Cosines (N, M) of what is seen (N, 6, 112, 112) to gradients (M, 6, 112, 112) that were computed of photos.

    What all have in common is taken from each first.
    """
    return _centred(seen) @ _centred(known).T


def _centred(gradients: Float32) -> Tensor:
    """At unit length, (N, values)."""
    flat = torch.from_numpy(gradients).flatten(1)
    return F.normalize(flat - flat.mean(0))
