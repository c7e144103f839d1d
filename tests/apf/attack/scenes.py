"""Photos that are made up, with places of faces in them, and changes of these faces."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import cv2
import numpy as np
from hypothesis import strategies as st

from apf.attack.bound import Bound
from apf.attack.outline import HALF_AXES, MIDDLE, ROUNDNESS
from apf.attack.perturbation import KNOTS, Change
from apf.faces.alignment import ARCFACE_TEMPLATE, CROP, alignment
from apf.faces.geometry import scale_of
from apf.filters.torch_filter import Filter

STANDARD = Bound(epsilon=8, chroma=0.45, warp=0.008)
STILL = Bound(epsilon=8, chroma=0.45, warp=0)


def face_at(x: float, y: float, size: float, angle: float = 0.0) -> np.ndarray:
    """The matrix of a face whose crop is `size` photo pixels wide, around (x, y)."""
    points = (ARCFACE_TEMPLATE - (CROP - 1) / 2) @ (1, 1j) * (size / CROP) * np.exp(1j * angle) + (x + 1j * y)
    return alignment(np.stack([points.real, points.imag], axis=1))


def smooth_photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A photo away from black and white, so that nothing is clipped."""
    small = np.random.default_rng(seed).integers(
        60, 195, (max(2, height // 16), max(2, width // 16), 3), dtype=np.uint8
    )
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def busy_photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """The same with texture that hides much, everywhere."""
    noise = np.random.default_rng(seed).normal(0, 16, (height, width, 1))
    return np.clip(smooth_photo(height, width, seed) + noise, 30, 225).astype(np.uint8)


def change(seed: int, *, field: bool = True, side: int = CROP, strength: float = 1.0) -> Change:
    """A random one, each of its values up to `strength` of what is allowed."""
    random = np.random.default_rng(seed)
    noise = random.uniform(-strength, strength, (3, side, side)).astype(np.float32)
    warp = random.uniform(-strength, strength, (2, KNOTS, KNOTS)).astype(np.float32)
    return Change(noise, warp if field else None)


def still(one: Change) -> Change:
    """The same warp without the noise."""
    return Change(one.noise * 0, one.field)


@dataclass(frozen=True)
class Scene:
    """A photo with faces in it, overlapping, over the edge or outside."""

    photo: np.ndarray
    changes: list[Change]
    matrices: list[np.ndarray]
    allowed: Bound


@st.composite
def scenes(draw: st.DrawFn, *, least: int = 0) -> Scene:
    """Up to four faces of any size and angle; the photo is noise, or smooth."""
    seed = draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    height, width = draw(st.integers(1, 300)), draw(st.integers(1, 300))
    noise = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    photo = noise if draw(st.booleans()) else smooth_photo(height, width, seed)
    count = draw(st.integers(least, 4))
    size, side = st.floats(3, 500), st.sampled_from([1, 40, CROP])
    matrices = [
        face_at(random.uniform(-40, width + 40), random.uniform(-40, height + 40), draw(size), random.uniform(-4, 4))
        for _ in range(count)
    ]
    # Beyond what is allowed, too: a server may answer anything.
    strength, field = draw(st.sampled_from([1.0, 30.0])), draw(st.booleans())
    changes = [change(seed + i, field=field, side=draw(side), strength=strength) for i in range(count)]
    chroma, warp = draw(st.sampled_from([0.0, 0.45, 1.0])), draw(st.sampled_from([0.0, 0.008, 0.03]))
    return Scene(photo, changes, matrices, Bound(draw(st.sampled_from([1, 8, 32])), chroma, warp))


def inside_outline(one: Change, matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(H, W) bool: pixels of a photo inside a face's outline, or so near that drawing it blurs into them."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    u, v = (row[0] * x + row[1] * y + row[2] for row in matrix)
    # What is drawn is the noise, reduced to the face's pixels where these are fewer.
    blur = 1.01 * CROP / min(len(one.noise[0]), max(1, round(CROP / scale_of(matrix))))
    away = [
        np.maximum(np.abs(at - middle) - blur, 0) / half
        for at, middle, half in zip((u, v), MIDDLE, HALF_AXES, strict=True)
    ]
    outline = (away[0] ** ROUNDNESS + away[1] ** ROUNDNESS) < 1
    square = (np.abs(u - (CROP - 1) / 2) < CROP / 2 + blur) & (np.abs(v - (CROP - 1) / 2) < CROP / 2 + blur)
    found: np.ndarray = outline & square
    return found


def moved(photo: np.ndarray, out: np.ndarray) -> np.ndarray:
    return np.abs(out.astype(int) - photo.astype(int))


def without_warp(filter: Filter) -> Filter:
    """A filter of the same modules whose recipe has no warp."""
    still = copy.copy(filter)
    still.recipe = filter.recipe.model_copy(update={"warp_percent": 0.0})
    return still
