"""The bound of each pixel: little on smooth skin, more where texture or shade hide a change. Without torch.

Eyes miss noise beside contrast of its own kind (masking, Legge and Foley 1980), and adapt to the light. Contrast counts
on the pixel's own side of an edge alone: brows hide nothing on the forehead above, nor a head's outline on the wall
behind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from apf.faces.alignment import Float32
from apf.faces.resampling import blurred
from apf.recipe import MOST, Recipe, most_levels

#: Rec. 601, as JPEG has it.
LUMA: Float32 = np.array([0.299, 0.587, 0.114], np.float32)
#: The bound of smooth skin, as a share of a recipe's epsilon.
LEAST = 0.12
#: Contrast, in levels, that counts as smooth, and how far a pixel moves for each beyond, in shares of epsilon / 8.
SMOOTH_CONTRAST, MASKING = 3.0, 1.4
#: The share of the bound that is left where there is no contrast at all, such as on a white wall, and the contrast, in
#: levels, from which it is whole.
FLAT_SHARE, FLAT_CONTRAST = 0.15, 0.6
#: Sigma of the neighbourhood, in template pixels, and at least one pixel.
REACH = 1.2
#: Where contrast is looked for: radius in units of sigma, pairs of opposite places, and the turn of the first.
RINGS = ((0.7, 3, 0.0), (1.4, 4, 0.3), (2.4, 5, 0.1))
#: Levels of difference within which a neighbour is on the pixel's own side.
OWN_SIDE = 25.0
#: Shares of fine contrast that run one way: straight hair hides nothing that crosses it, and from the second on counts
#: as smooth. Sigmas of what is fine, at most, and of the neighbourhood, in that of `REACH`.
COMBED, STRANDS, COMBED_REACH = (0.5, 0.8), 1.5, 2.5
#: Luma of surroundings, in levels, below which the eye adapts: all is as in the photo lit to this, down to a share. The
#: surroundings' sigma is this many template pixels.
ADAPTED, LEAST_LIGHT, SURROUNDINGS = 100.0, 0.4, 12.0
#: The share of its surroundings' luma below which shade hides more, and how much more at most.
SHADE, IN_SHADE = 0.6, 0.6


@dataclass(frozen=True)
class Bound:
    """The largest change of a face that a recipe allows."""

    #: In levels of 255: a lit pixel with some contrast around it moves by `LEAST` to `MOST` times this.
    epsilon: float
    #: Share of a perturbation that goes into colour, 0 to 1; the rest moves the three channels alike.
    chroma: float
    #: How far a point may shift, as a share of the face's side; 0 is no warp.
    warp: float

    @classmethod
    def of(cls, recipe: Recipe) -> Bound:
        """As a recipe says."""
        return cls(recipe.epsilon_levels, recipe.chroma, recipe.warp_percent / 100)

    @property
    def most(self) -> int:
        """Levels that no pixel moves beyond."""
        return most_levels(self.epsilon)


def bound_map(pixels: Float32, scale: float, allowed: Bound, rim: Float32 | None = None) -> Float32:
    """How far each pixel may move, in levels: (h, w) float32, at most `allowed.most`.

    Args:
        pixels: (h, w, 3) float32 RGB in levels of 255.
        scale: template pixels a pixel, which says how large the face is.
        rim: (h, w), 0 on eyes, brows, nose and mouth, 1 around them: the share to which combed contrast, such as
            straight hair's, is no contrast.
    """
    luma = pixels @ LUMA
    sigma = max(1.0, REACH / scale)
    around = blurred(luma, max(1.0, SURROUNDINGS / scale))
    light = np.clip(around / ADAPTED, LEAST_LIGHT, 1).astype(np.float32)
    lit = luma / light
    contrast = own_contrast(lit, sigma)
    hiding: Float32 = contrast if rim is None else contrast * (1 - rim * combed(lit, sigma))
    dark = SHADE * np.maximum(around, 1)
    shade = 1 + IN_SHADE * np.clip((dark - blurred(luma, sigma)) / dark, 0, 1)
    masked = blurred(LEAST + MASKING / 8 * np.maximum(hiding - SMOOTH_CONTRAST, 0), sigma) * shade
    flat = blurred(np.clip(contrast / FLAT_CONTRAST, FLAT_SHARE, 1), 0.7 * sigma)
    found: Float32 = allowed.epsilon * np.minimum(masked, MOST) * flat * light
    return np.minimum(found, np.float32(allowed.most))


def combed(luma: Float32, sigma: float) -> Float32:
    """How much of the fine contrast around each pixel runs one way, 0 to 1, by the structure tensor (Bigün 1987)."""
    fine = blurred(luma, max(0.7, 0.35 * sigma)) - blurred(luma, STRANDS * sigma)
    soft: Float32 = np.pad(fine, 1, mode="edge")
    half = np.float32(0.5)
    down, right = half * (soft[2:, 1:-1] - soft[:-2, 1:-1]), half * (soft[1:-1, 2:] - soft[1:-1, :-2])
    across, along, both = (blurred(one, COMBED_REACH * sigma) for one in (right * right, down * down, right * down))
    coherence = np.hypot(across - along, 2 * both) / (across + along + np.float32(1))
    found: Float32 = np.clip((coherence - COMBED[0]) / (COMBED[1] - COMBED[0]), 0, 1).astype(np.float32)
    return found


def own_contrast(luma: Float32, sigma: float) -> Float32:
    """Return the contrast around each pixel on its own side of edges, in levels.

    Of pairs of opposite neighbours only those count that are both like the pixel, and of these what bends: even slopes,
    such as a cheek's shading, are no contrast.
    """
    reach = math.ceil(max(radius for radius, *_ in RINGS) * sigma) + 1
    padded, (h, w) = np.pad(luma, reach, mode="edge"), luma.shape

    def away(dx: int, dy: int) -> Float32:
        found: Float32 = padded[reach + dy : reach + dy + h, reach + dx : reach + dx + w] - luma
        return found

    total, weights = np.zeros_like(luma), np.full_like(luma, 0.25)
    for radius, pairs, turn in RINGS:
        for pair in range(pairs):
            angle = math.pi * pair / pairs + math.pi * turn / pairs
            dx, dy = round(radius * sigma * math.cos(angle)), round(radius * sigma * math.sin(angle))
            there, opposite = away(dx, dy), away(-dx, -dy)
            weight = np.exp((there * there + opposite * opposite) * np.float32(-0.5 / OWN_SIDE**2)) + np.float32(1e-3)
            total += weight * np.square(there + opposite) * np.float32(0.375)
            weights += weight
    found: Float32 = np.sqrt(total / weights)
    return found
