"""The bound of each pixel by torch: `apf.attack.bound.bound_map` for canvases of a batch, each of its own size."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from apf.attack.bound import (
    ADAPTED,
    COMBED,
    COMBED_REACH,
    FLAT_CONTRAST,
    FLAT_SHARE,
    IN_SHADE,
    LEAST,
    LEAST_LIGHT,
    LUMA,
    MASKING,
    OWN_SIDE,
    REACH,
    RINGS,
    SHADE,
    SMOOTH_CONTRAST,
    STRANDS,
    SURROUNDINGS,
)
from apf.attack.outline import FEATURES, HALF_AXES, MIDDLE, ROUNDNESS
from apf.recipe import MOST

#: Pixels that a blur reaches at most: three sigmas of surroundings, of a canvas of `apf.attack.canvas.DETAIL`.
MOST_REACH = 112


class Bounds:
    """What hides a change in canvases (B, S, S) of so many rows and columns; beyond them anything may lie.

    Args:
        levels: (B, 3, S, S) in levels of 255.
        scale: (B,), template pixels a canvas pixel; `height` and `width` of the canvases likewise, in pixels.
    """

    def __init__(self, levels: Tensor, scale: Tensor, height: Tensor, width: Tensor) -> None:
        self._size = width.view(-1, 1, 1).long(), height.view(-1, 1, 1).long()
        red, green, blue = (float(share) for share in LUMA)
        self._luma = red * levels[:, 0] + green * levels[:, 1] + blue * levels[:, 2]
        self._sigma, self._scale = (REACH / scale).clamp_min(1), scale

    def map(self, at: Tensor, epsilon: Tensor, most: Tensor) -> Tensor:
        """Return how far each pixel may move, in levels: (B, S, S).

        Args:
            at: (B, S, S, 2), where each pixel lies in the template.
            epsilon: (B,) of the bound, and the levels that no pixel moves beyond.
        """
        own = self._sigma
        around = self._blurred(self._luma, (SURROUNDINGS / self._scale).clamp_min(1))
        light = (around / ADAPTED).clamp(LEAST_LIGHT, 1)
        lit = self._luma / light
        contrast = self._own_contrast(lit)
        hiding = contrast * (1 - rim(at) * self._combed(lit))
        dark = SHADE * around.clamp_min(1)
        shade = 1 + IN_SHADE * ((dark - self._blurred(self._luma, own)) / dark).clamp(0, 1)
        masked = self._blurred(LEAST + MASKING / 8 * (hiding - SMOOTH_CONTRAST).clamp_min(0), own) * shade
        flat = self._blurred((contrast / FLAT_CONTRAST).clamp(FLAT_SHARE, 1), 0.7 * own)
        found = epsilon.view(-1, 1, 1) * masked.clamp_max(MOST) * flat * light
        return torch.minimum(found, most.view(-1, 1, 1))

    def _combed(self, luma: Tensor) -> Tensor:
        own = self._sigma
        fine = self._blurred(luma, (0.35 * own).clamp_min(0.7)) - self._blurred(luma, STRANDS * own)
        one = torch.ones_like(own)
        down = 0.5 * (self._moved(fine, 0 * one, one) - self._moved(fine, 0 * one, -one))
        right = 0.5 * (self._moved(fine, one, 0 * one) - self._moved(fine, -one, 0 * one))
        across, along, both = (
            self._blurred(each, COMBED_REACH * own) for each in (right * right, down * down, right * down)
        )
        coherence = torch.hypot(across - along, 2 * both) / (across + along + 1)
        return ((coherence - COMBED[0]) / (COMBED[1] - COMBED[0])).clamp(0, 1)

    def _own_contrast(self, luma: Tensor) -> Tensor:
        total, weights = torch.zeros_like(luma), torch.full_like(luma, 0.25)
        for radius, pairs, turn in RINGS:
            for pair in range(pairs):
                angle = math.pi * pair / pairs + math.pi * turn / pairs
                # In double precision, as on a CPU: where a place is half-way, both have to take the same side.
                reach = radius * self._sigma.double()
                dx, dy = (reach * math.cos(angle)).round(), (reach * math.sin(angle)).round()
                there, opposite = self._moved(luma, dx, dy) - luma, self._moved(luma, -dx, -dy) - luma
                weight = torch.exp((there * there + opposite * opposite) * (-0.5 / OWN_SIDE**2)) + 1e-3
                total = total + weight * (there + opposite).square() * 0.375
                weights = weights + weight
        return (total / weights).sqrt()

    def _moved(self, image: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
        """Return what lies so far, (B,), from each pixel; beyond the edges the last pixels repeat."""
        side, (width, height) = image.shape[-1], self._size
        pixel = torch.arange(side, device=image.device)
        x = (pixel[None, None] + dx.long().view(-1, 1, 1)).clamp_min(0).minimum(width - 1)
        y = (pixel[None, :, None] + dy.long().view(-1, 1, 1)).clamp_min(0).minimum(height - 1)
        return image.flatten(1).gather(1, (y * side + x).flatten(1)).view_as(image)

    def _blurred(self, image: Tensor, sigma: Tensor) -> Tensor:
        """As `apf.faces.resampling.blurred`, each canvas by its own sigma, (B,)."""
        across, down = (_blur(sigma, size, image.shape[-1]) for size in self._size)
        return down @ image @ across.transpose(1, 2)


def rim(at: Tensor) -> Tensor:
    """As `apf.attack.outline.rim`, of places in the template (B, S, S, 2)."""
    shares = [
        ((at[..., axis] - middle).abs() / half) ** ROUNDNESS
        for axis, (middle, half) in enumerate(zip(MIDDLE, HALF_AXES, strict=True))
    ]
    radius = (shares[0] + shares[1]) ** (1 / ROUNDNESS)
    return ((radius - FEATURES[0]) / (FEATURES[1] - FEATURES[0])).clamp(0, 1)


def _blur(sigma: Tensor, size: Tensor, side: int) -> Tensor:
    """Return what blurs an axis of so many pixels, (B, side, side): what lies beyond its ends counts as its ends do."""
    most = side + MOST_REACH
    away = torch.arange(-most, most + 1, device=sigma.device)
    sigma = sigma[:, None]
    kernel = torch.exp(-(away**2) / (2 * sigma**2)) * (away.abs() <= (3 * sigma).round().clamp_min(1))
    kernel = kernel / kernel.sum(1, keepdim=True)
    upto = kernel.cumsum(1)
    pixel = torch.arange(side, device=sigma.device)
    offset = (pixel[None] - pixel[:, None]) + most  # of a pixel, along the last axis, from the one that is blurred
    first, last = pixel[None, None] == 0, pixel[None, None] == size - 1
    inside, before = kernel[:, offset], upto[:, offset]
    # An axis of one pixel is both its first and its last.
    found = torch.where(last, 1 - upto[:, offset - 1], torch.where(first, before, inside))
    return torch.where(first & last, torch.ones_like(found), found) * (pixel[None, None] < size)
