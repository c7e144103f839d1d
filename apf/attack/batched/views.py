"""What a view cuts out of a canvas, as numbers: `apf.faces.alignment.cut` for many at once. NumPy, on the host."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from apf.attack.chances import AFFINE_STD, JITTER, Chance, ViewNoise
from apf.attack.gradient_steps import REACH
from apf.attack.jury import jury_views
from apf.attack.outline import FACE_SIDE
from apf.faces.alignment import ARCFACE_TEMPLATE, Float32
from apf.faces.geometry import CROP, Float64

#: Pixels around the crop's square that `cut` reads.
MARGIN = 2
#: Numbers of a view: the map from crop pixels to those of the reduced region, 6, then its left and top edge in the
#: canvas, the canvas pixels a reduced one spans across and down, and its width and height.
VIEW = 12
#: Weights of the softness, of a pixel and of those beside it, one way: sigmas are 1.5 at most.
TAPS = 5
#: Numbers of a step: view, the way back, quality, softness, rates of noise and field, room; then one for each guide.
STEP = VIEW + 6 + 1 + TAPS + 2 + 1


def views_of(matrices: Float64, sizes: Float64) -> Float32:
    """Return the numbers of views, (N, `VIEW`).

    Args:
        matrices: (N, 2, 3), each from a canvas's pixels to a crop's.
        sizes: (N, 2), width and height of each canvas.
    """
    low, high = -0.5, CROP - 0.5
    corners = np.array([[low, high, high, low], [low, low, high, high]])
    inside = np.linalg.solve(matrices[:, :, :2], corners - matrices[:, :, 2:])
    # As `apf.faces.geometry.bounds_of` and `nonempty`.
    first = np.clip(np.floor(inside.min(2)) - MARGIN, 0, sizes - 1)
    sides = np.minimum(np.maximum(np.ceil(inside.max(2)) + 1 + MARGIN, first + 1), sizes) - first
    scale = np.minimum(1, np.hypot(matrices[:, 0, 0], matrices[:, 1, 0]))
    reduced = np.maximum(1, np.rint(sides * scale[:, None]))
    span = sides / reduced
    # As `apf.faces.geometry.zoom`, from reduced pixels to the canvas's.
    to_canvas = np.zeros((len(matrices), 3, 3))
    to_canvas[:, [0, 1], [0, 1]] = span
    to_canvas[:, :2, 2] = first + (span - 1) / 2
    to_canvas[:, 2, 2] = 1
    to_region = np.linalg.inv(_square(matrices) @ to_canvas)[:, :2].reshape(-1, 6)
    return np.concatenate([to_region, first, span, reduced], 1).astype(np.float32)


def jury_rows(matrices: Float64, sizes: Float64) -> Float32:
    """Return the views that a jury looks through, the plain one first, of B canvases: (B, 3, `VIEW`)."""
    views = _square(np.stack(jury_views()))[None] @ _square(matrices)[:, None]
    found = views_of(views[:, :, :2].reshape(-1, 2, 3), np.repeat(sizes, views.shape[1], axis=0))
    return found.reshape(len(matrices), -1, VIEW)


def step_rows(
    chances: Sequence[Sequence[Chance]], matrices: Float64, sizes: Float64, guides: int, room: float
) -> Float32:
    """Return the numbers of all steps of B faces, (B, steps, `STEP` + guides).

    Args:
        chances: of each face, equally many.
        matrices: (B, 2, 3), canvas pixels to template pixels.
        sizes: (B, 2), width and height of the canvas.
        room: the share of the bound that may be used.
    """
    faces, steps = len(chances), len(chances[0])
    drawn = [chance for own in chances for chance in own]
    views = random_views([chance.noise for chance in drawn])
    whole = np.repeat(_square(matrices), steps, axis=0)
    falling = 2 * (1 - np.arange(steps) / steps)[:, None] * np.array(REACH) / steps
    chosen = np.zeros((len(drawn), guides))
    for row, chance in zip(chosen, drawn, strict=True):
        row[list(chance.chosen)] = 1
    parts: list[NDArray[np.floating]] = [
        views_of(views @ whole, np.repeat(sizes, steps, axis=0)),
        views.reshape(-1, 6),
        np.array([[chance.quality] for chance in drawn]),
        taps_of(np.array([chance.soft for chance in drawn])),
        np.tile(falling, (faces, 1)),
        np.full((len(drawn), 1), room),
        chosen,
    ]
    return np.concatenate(parts, 1).astype(np.float32).reshape(faces, steps, -1)


def random_views(noises: Sequence[ViewNoise]) -> Float64:
    """Return `ViewNoise.view` of each, (N, 2, 3), all at once."""
    landmarks = ARCFACE_TEMPLATE + JITTER * FACE_SIDE * np.stack([noise.landmarks for noise in noises])
    # As `apf.faces.alignment.alignment`.
    source, target = landmarks @ (1, 1j), ARCFACE_TEMPLATE @ (1, 1j)
    middle = source.mean(1, keepdims=True)
    z, w = source - middle, target - target.mean()
    a = (z.conj() @ w) / (np.abs(z) ** 2).sum(1)
    b = target.mean() - a * middle[:, 0]
    fit = np.stack([a.real, -a.imag, b.real, a.imag, a.real, b.imag], 1).reshape(-1, 2, 3)
    small = np.eye(2, 3) + AFFINE_STD * np.stack([noise.affine for noise in noises])
    mirrored = np.array([noise.mirrored for noise in noises])
    small[mirrored, 0, :2] *= -1
    centre = (CROP - 1) / 2
    small[:, :, 2] = centre + small[:, :, 2] * CROP / 2 - small[:, :, :2] @ (centre, centre)
    views: Float64 = small @ _square(fit)
    return views


def taps_of(sigmas: Float64) -> Float64:
    """Return how `apf.faces.resampling.blurred` weighs a pixel, then those beside it one way: (N, `TAPS`)."""
    places, sigma = np.arange(TAPS), np.where(sigmas > 0, sigmas, 1.0)[:, None]
    found = np.exp(-(places**2) / (2 * sigma**2)) * (places <= np.maximum(1, np.rint(3 * sigma)))
    found /= 2 * found.sum(1, keepdims=True) - found[:, :1]
    taps: Float64 = np.where(sigmas[:, None] > 0, found, np.eye(1, TAPS))
    return taps


def _square(matrices: Float64) -> Float64:
    """(N, 2, 3) as (N, 3, 3)."""
    last = np.broadcast_to(np.array([[[0.0, 0.0, 1.0]]]), (len(matrices), 1, 3))
    return np.concatenate([matrices, last], 1)
