"""The change of one face, on the template, and how it is drawn into any part of a photo. Without torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from apf.attack.bound import LUMA, Bound
from apf.attack.canvas import Canvas, inside_square
from apf.attack.outline import FACE_SIDE, WARP_FEATHER, face_mask
from apf.faces.alignment import Float32
from apf.faces.geometry import CROP, Float64, Rect, scale_of, zoom
from apf.faces.resampling import reduce_area, remap_cubic, warp_affine

#: Side of the warp's grid of control points.
KNOTS = 6
#: Values of a field's mean size take tanh(2) = 0.96 of the largest shift.
FIELD_SOFTNESS = 2.0
TINY = 1e-20


@dataclass(frozen=True, eq=False)
class Change:
    """A face's perturbation and warp, in shares of what the bound allows."""

    #: (3, n, n) float32 in [-1, 1], n at most 112: in units of each pixel's bound.
    noise: Float32
    #: (2, 6, 6) float32 in [-1, 1]: shifts along the template's x and y, in units of the largest; None is no warp.
    field: Float32 | None = None

    def __post_init__(self) -> None:
        shapes = self.noise.ndim == 3 and self.noise.shape[0] == 3 and self.noise.shape[1] == self.noise.shape[2]
        if not shapes or not 0 < self.noise.shape[1] <= CROP or not np.isfinite(self.noise).all():
            raise ValueError(f"noise must be finite and (3, n, n), n at most {CROP}, not {self.noise.shape}")
        if self.field is not None and (self.field.shape != (2, KNOTS, KNOTS) or not np.isfinite(self.field).all()):
            raise ValueError(f"a field must be finite and (2, {KNOTS}, {KNOTS}), not {self.field.shape}")


def in_colour(noise: Float32, chroma: float) -> Float32:
    """Noise (3, n, n) with its colour reduced to a share, within [-1, 1]."""
    grey = np.tensordot(LUMA, noise, 1)[None]
    found: Float32 = np.clip(grey + np.float32(chroma) * (noise - grey), -1, 1)
    return found


def in_colour_back(gradient: Float32, chroma: float) -> Float32:
    """Return the transpose of `in_colour`, but for its clipping."""
    found: Float32 = chroma * gradient + (1 - chroma) * LUMA[:, None, None] * gradient.sum(0)[None]
    return found


@cache
def spread() -> Float32:
    """(112, 6): control points to template pixels, cubically, as images are enlarged."""
    at = (np.arange(CROP) + 0.5) * (KNOTS / CROP) - 0.5
    found = np.zeros((CROP, KNOTS), np.float32)
    for knot in range(-2, KNOTS + 2):
        found[:, min(max(knot, 0), KNOTS - 1)] += _cubic(np.abs(at - knot))
    return found


def _cubic(x: Float64) -> Float64:
    """Keys' kernel with a = -0.5 (Keys 1981)."""
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def shifts(field: Float32) -> Float32:
    """Return the shift of each template pixel, (112, 112, 2), in units of the largest: no vector is longer than 1."""
    knots = spread()
    found = np.stack([knots @ one @ knots.T for one in field], -1)
    length = np.sqrt((found * found).sum(-1, keepdims=True))
    shift: Float32 = (found / np.maximum(length, 1) * face_mask(CROP, WARP_FEATHER)[..., None]).astype(np.float32)
    return shift


def field_along(momentum: Float32, face: Float32) -> Float32:
    """Return the field (2, 6, 6) of the warp that moves a face's pixels along a momentum, to first order.

    Args:
        momentum: (3, 112, 112), where the pixels are to go, at any scale.
        face: (3, 112, 112) in [0, 1].
    """
    mask, knots = face_mask(CROP, WARP_FEATHER), spread()
    along = [(momentum * np.gradient(face, axis=axis)).sum(0) * mask for axis in (2, 1)]
    found = np.stack([knots.T @ one @ knots for one in along])
    size = max(float(np.abs(found).mean()), TINY)
    field: Float32 = np.tanh(FIELD_SOFTNESS / size * found).astype(np.float32)
    return field


def change_of(delta: Float32, epsilon: float, face: Float32 | None = None, momentum: Float32 | None = None) -> Change:
    """Return the change of a perturbation within epsilon, (3, 112, 112), and of the warp that a momentum leads to."""
    warp = None if face is None or momentum is None else field_along(momentum, face)
    return Change(delta / np.float32(epsilon), warp)


class Drawing:
    """A change in a face's place, ready to be drawn into any part of the photo (or canvas) that `matrix` is of.

    Args:
        canvas: where the face's bound is from; its own matrix is used unless another is given.
        matrix: (2, 3), photo pixels to template pixels.
    """

    def __init__(
        self, change: Change, canvas: Canvas, allowed: Bound, matrix: Float64 | None = None, *, grey: bool = False
    ) -> None:
        self.matrix = canvas.matrix if matrix is None else matrix
        noise = in_colour(change.noise, 0.0 if grey else allowed.chroma)[: 1 if grey else 3].transpose(1, 2, 0)
        side = min(len(noise), max(1, round(CROP / scale_of(self.matrix))))
        noise = reduce_area(np.ascontiguousarray(noise), side, side) if side < len(noise) else noise
        self._noise = np.ascontiguousarray(noise * face_mask(side)[..., None])
        self._bound = canvas.bound
        self._to_canvas = np.eye(2, 3) if matrix is None else np.linalg.inv(canvas.to_photo)[:2]
        self._shift = None
        if change.field is not None and allowed.warp > 0:
            # Along the photo's axes, in photo pixels.
            back = np.linalg.inv(self.matrix[:, :2]) * (allowed.warp * FACE_SIDE)
            self._shift = (shifts(change.field) @ back.T).astype(np.float32)

    @property
    def warps(self) -> bool:
        """Whether points shift."""
        return self._shift is not None

    def bound(self, part: Rect) -> Float32:
        """How far each pixel of a part of the photo may move, in whole levels: (h, w)."""
        x1, y1, x2, y2 = part
        found = warp_affine(self._bound[..., None], self._to_canvas @ zoom(1, 1, x1, y1), x2 - x1, y2 - y1)
        rounded: Float32 = np.rint(found[..., 0])
        return rounded

    def noise(self, part: Rect) -> Float32:
        """Return the perturbation in units of the bound, (h, w, 3 or 1)."""
        return self._inside(self._noise, part)

    def shift(self, part: Rect) -> Float32:
        """Whence each pixel comes, from its own place, in photo pixels: (h, w, 2)."""
        if self._shift is None:
            return np.zeros((part[3] - part[1], part[2] - part[0], 2), np.float32)
        return self._inside(self._shift, part)

    def on_face(self, canvas: Canvas) -> Float32:
        """Return the canvas's face with the change on it, (h, w, 3) in levels; not rounded, and not cut to 0 to 255."""
        found = canvas.levels[canvas.face]
        if self._shift is not None:
            shift, (x, y) = self._drawn(self._shift, canvas.rect)[canvas.face], canvas.places
            moved = (at + shift[..., axis] * canvas.inside for axis, at in enumerate((x, y)))
            found = remap_cubic(canvas.levels, *moved)
            np.clip(found, 0, 255, out=found)
        noise = self._drawn(self._noise, canvas.rect)[canvas.face]
        return found + noise * canvas.face_bound[..., : noise.shape[2]]

    def _inside(self, image: Float32, part: Rect) -> Float32:
        """As `_drawn`, and zero beyond the square."""
        found = self._drawn(image, part)
        found *= inside_square(self.matrix, part)[..., None]
        return found

    def _drawn(self, image: Float32, part: Rect) -> Float32:
        """Return an image of the template's square, of any resolution, in a part of the photo."""
        x1, y1, x2, y2 = part
        factor = CROP / len(image)
        to_photo = np.vstack([self.matrix @ zoom(1, 1, x1, y1), (0, 0, 1)])
        to_image = np.linalg.inv(zoom(factor, factor))[:2] @ to_photo
        return warp_affine(image, to_image, x2 - x1, y2 - y1)
