"""The perceptual bound and the warp in training: what `apf.attack` has of them, for a batch and with gradients.

The bound is a constant of each face: no gradient goes through it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from apf.attack.bound import Bound, bound_map
from apf.attack.outline import FACE_SIDE, FEATHER, WARP_FEATHER, face_mask, rim
from apf.attack.perturbation import FIELD_SOFTNESS, TINY, spread
from apf.faces.alignment import CROP
from apf.faces.geometry import Float64
from apf.research.train import augment
from apf.research.train.ssim import ssim


@dataclass(frozen=True, eq=False)
class Attacked:
    """Faces (B, 3, 112, 112) in [0, 1], and what is done to them: noise of that shape in units of their bound, and a
    warp's field (B, 2, 6, 6).
    """

    faces: Tensor
    noise: Tensor
    allowed: Bound
    field: Tensor | None = None

    @cached_property
    def bound(self) -> Tensor:
        """In whole levels, (B, 1, 112, 112)."""
        return bounds(self.faces, self.allowed)

    @cached_property
    def warped(self) -> Tensor:
        """The faces under the warp alone."""
        if self.field is None or not self.allowed.warp:
            return self.faces
        return warped(self.faces, self.field, self.allowed.warp)

    @cached_property
    def protected(self) -> Tensor:
        """The faces as protected where a photo has the template's own size."""
        return self._drawn(self.warped)

    @cached_property
    def lost(self) -> Tensor:
        """Structural dissimilarity (B,) of luma, 1 - SSIM, with the warp undone."""
        return 1 - ssim(*(augment.luma(one)[:, :1] for one in (self.faces, self._drawn(self.faces))))

    def _drawn(self, faces: Tensor) -> Tensor:
        return drawn(faces, self.noise * outline(self.noise), self.bound)


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
    """Return maps (B, 2, 3), edges at -1 and 1, as maps (2, 3) of a square picture's pixels to the template's."""
    to_unit = np.array([[2 / side, 0, 1 / side - 1], [0, 2 / side, 1 / side - 1], [0, 0, 1]])
    half = CROP / 2
    to_pixel = np.array([[half, 0, half - 0.5], [0, half, half - 0.5], [0, 0, 1]])
    maps = to_template.double().cpu().numpy()
    return [(to_pixel @ np.vstack([one, (0, 0, 1)]) @ to_unit)[:2] for one in maps]


def outline(like: Tensor) -> Tensor:
    """1 on the face, fading to 0 at its outline: (n, n), of the template at the resolution of `like`."""
    return _outline(like.shape[-1]).to(like.device)


@cache
def _outline(side: int, feather: float = FEATHER) -> Tensor:
    return torch.from_numpy(face_mask(side, feather).copy())


def drawn(pictures: Tensor, noise: Tensor, bound: Tensor) -> Tensor:
    """Return pictures (B, 3, n, n) in [0, 1] with noise in units of their bound, (B, 1, n, n) in levels, on them.

    In whole levels; the gradient passes as if nothing were rounded.
    """
    levels = pictures * 255
    moved = levels + noise * bound
    whole = moved + ((levels.round() + noise * bound).round() - moved).detach()
    return whole.clamp(0, 255) / 255


def field_along(momentum: Tensor, faces: Tensor) -> Tensor:
    """As `apf.attack.perturbation.field_along`, of a batch: (B, 2, 6, 6)."""
    mask, knots = _outline(CROP, WARP_FEATHER).to(faces), _spread().to(faces)
    slopes = torch.gradient(faces, dim=(3, 2))
    along = torch.stack([(momentum * slope).sum(1) * mask for slope in slopes], 1)
    with torch.autocast(faces.device.type, enabled=False):
        found = knots.T @ along @ knots
    size = found.abs().mean((1, 2, 3), keepdim=True).clamp_min(TINY)
    return torch.tanh(FIELD_SOFTNESS / size * found)


def warped(faces: Tensor, field: Tensor, most: float) -> Tensor:
    """Faces (B, 3, 112, 112) with their points shifted by fields (B, 2, 6, 6), at most by this share of the face."""
    knots = _spread().to(faces)
    with torch.autocast(faces.device.type, enabled=False):  # places need all of float32
        shift = knots @ field @ knots.T
        still = F.affine_grid(torch.eye(2, 3)[None].to(faces), [1, 1, CROP, CROP], align_corners=False)
    length = shift.square().sum(1, keepdim=True).clamp_min(TINY).sqrt()
    shift = most * FACE_SIDE * shift / length.clamp_min(1) * _outline(CROP, WARP_FEATHER).to(faces)
    grid = still + 2 / CROP * shift.permute(0, 2, 3, 1)
    return F.grid_sample(faces, grid, mode="bicubic", padding_mode="border", align_corners=False).clamp(0, 1)


@cache
def _spread() -> Tensor:
    return torch.from_numpy(spread())
