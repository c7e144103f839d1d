"""Stage 1, gradient: what the probe says about this one photo.

Three directions in pixel space: towards two fixed decoy identities, at the photo itself, and away from the photo's own
embedding, one step off the photo (at the photo itself that gradient is zero). No second photo and no random number is
used. Nothing is clipped to the pixel range, which would show where the photo is black or white.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from apf.models.probe import BLOCK_DIM, BLOCKS, Probe

#: Fixed identities that nobody has: unit vectors in each of the probe's blocks.
DECOYS = 2
#: Three colour channels for each decoy and for the step away from oneself.
CHANNELS = 3 * (DECOYS + 1)
#: Length of the step off the photo; the same for every recipe, so that one transfer network serves them all.
STEP = 8 / 255

#: In units of epsilon; the bound's tanh brings it to 0.999.
SATURATED = 4.0


def gradient(probe: Probe, faces: Tensor) -> Tensor:
    """The probe's gradients of each face, each scaled to unit root mean square.

    Args:
        probe: in eval mode; its BatchNorm runs on stored statistics, so batch mates do not matter.
        faces: (B, 3, 112, 112) float32 RGB in [0, 1].

    Returns:
        (B, 9, 112, 112) float32: towards decoy 0, towards decoy 1, away from oneself.
    """
    with torch.enable_grad():
        x = faces.detach().requires_grad_(True)
        blocks = probe.blocks(x)  # (B, blocks, 64)
        towards = [
            torch.autograd.grad((blocks * decoy).sum(), x, retain_graph=index + 1 < DECOYS)[0]
            for index, decoy in enumerate(_decoys().to(faces))
        ]
        moved = (faces + STEP * towards[0].sign()).detach().requires_grad_(True)
        (away,) = torch.autograd.grad(-(probe.blocks(moved) * blocks.detach()).sum(), moved)
    return torch.cat([_unit(direction) for direction in (*towards, away)], 1).detach()


def as_perturbation(gradients: Tensor) -> Tensor:
    """The gradient stage by itself: the signs away from oneself, (B, 3, 112, 112), so large that the bound cuts."""
    return SATURATED * gradients[:, -3:].sign()


def _decoys() -> Tensor:
    """(2, blocks, 64): alternating signs of equal size, orthogonal to each other."""
    index = torch.arange(BLOCK_DIM)
    signs = torch.stack([1.0 - 2.0 * (index % 2), 1.0 - 2.0 * (index // 2 % 2)])  # (2, 64)
    return (signs / math.sqrt(BLOCK_DIM))[:, None].expand(DECOYS, BLOCKS, BLOCK_DIM)


def _unit(direction: Tensor) -> Tensor:
    """Each face's gradient at unit root mean square; zero stays zero."""
    size = direction.square().mean((1, 2, 3), keepdim=True).sqrt()
    unit: Tensor = direction / size.clamp_min(1e-20)
    return unit
