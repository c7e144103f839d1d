"""The perceptual bound in training: `apf.attack.bound` and what pasting does within it, for a batch and with gradients.

The bound is a constant of each face: no gradient goes through it.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from apf.attack.bound import Bound, bound_map
from apf.attack.perturbation import face_mask, rim
from apf.faces.alignment import CROP
from apf.faces.geometry import Float64
from apf.research.train import augment


def in_colour(noise: Tensor, chroma: Tensor | float) -> Tensor:
    """Noise (B, 3, n, n) with its colour reduced to a share, within [-1, 1], as `apf.attack.perturbation.in_colour`."""
    grey = augment.luma(noise)
    return (grey + chroma * (noise - grey)).clamp(-1, 1)


def bounds(pictures: Tensor, allowed: Bound, to_template: Tensor | None = None) -> Tensor:
    """How far each pixel may move, in whole levels: (B, 1, n, n) of pictures (B, 3, n, n) in [0, 1].

    Args:
        to_template: maps (B, 2, 3) of the pictures to the template, edges at -1 and 1; None: they are the template.
    """
    side = pictures.shape[-1]
    with torch.no_grad():
        levels = (pictures.float() * 255).clamp(0, 255).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    maps = [np.eye(2, 3)] * len(levels) if to_template is None else in_pixels(to_template, side)
    found = [
        bound_map(one, CROP / side, allowed, rim(matrix, side, side)) for one, matrix in zip(levels, maps, strict=True)
    ]
    return torch.from_numpy(np.rint(np.stack(found)))[:, None].to(pictures.device)


def in_pixels(to_template: Tensor, side: int) -> list[Float64]:
    """Maps (B, 2, 3) with edges at -1 and 1, as maps (2, 3) of pixels of a square picture to those of the template."""
    to_unit = np.array([[2 / side, 0, 1 / side - 1], [0, 2 / side, 1 / side - 1], [0, 0, 1]])
    half = CROP / 2
    to_pixel = np.array([[half, 0, half - 0.5], [0, half, half - 0.5], [0, 0, 1]])
    maps = to_template.double().cpu().numpy()
    return [(to_pixel @ np.vstack([one, (0, 0, 1)]) @ to_unit)[:2] for one in maps]


def outline(like: Tensor) -> Tensor:
    """1 on the face, fading to 0 at its outline: (n, n), of the template at the resolution of `like`."""
    return _outline(like.shape[-1]).to(like.device)


@cache
def _outline(side: int) -> Tensor:
    return torch.from_numpy(face_mask(side).copy())


def drawn(pictures: Tensor, noise: Tensor, bound: Tensor) -> Tensor:
    """Return pictures (B, 3, n, n) in [0, 1] with noise in units of their bound, (B, 1, n, n) in levels, on them.

    In whole levels; the gradient passes as if nothing were rounded.
    """
    base = (pictures.detach() * 255).round()
    moved = base + noise * bound
    whole = moved + (moved.round() - moved).detach()
    return whole.clamp(0, 255) / 255
