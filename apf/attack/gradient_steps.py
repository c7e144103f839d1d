"""Gradient steps on guides by expectation over transformation (Athalye et al. 2018).

Each step sees the face through a fresh view: drawn into the photo, half of the time through JPEG, landmarks found a
little elsewhere, aligned, under a small affine map. What it learns is carried back to the template, where the
perturbation and the warp live.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import cv2
import numpy as np

from apf.attack.bound import Bound
from apf.attack.canvas import Canvas
from apf.attack.chances import Chance
from apf.attack.outline import WARP_FEATHER, face_mask
from apf.attack.perturbation import KNOTS, Change, Drawing, in_colour_back, spread
from apf.faces.alignment import Float32, UInt8, cut
from apf.faces.geometry import CROP, Float64, scale_of
from apf.faces.resampling import blurred, reduce_area, warp_affine
from apf.runtime.cores import with_idle_cores

if TYPE_CHECKING:
    from apf.guides.guide import Guide

MOMENTUM = 0.9
#: Values of the mean size take tanh(2) = 0.96 of a whole step.
SOFTNESS = 2.0
#: All steps together could reach this many times the bound: perturbation and warp.
REACH = (4.0, 8.0)
#: Size of the random start, in units of the bound.
START = 0.05
#: How much a decoy counts beside the face itself, where guides are several. It keeps photos of one person apart and
#: costs protection: one guide has none to spare (dlib: 81 % for 86 at FAR 1e-2, and 91 % of pairs match for 93).
DECOY = 1.0
TINY = 1e-12
#: Sigma, in template pixels, of what drawing and cutting out average: the gradient goes back through the same.
DRAWN = 0.7


@dataclass(eq=False)
class Climb:
    """One face on its way: what is drawn on it so far, and the momentum that it goes on with."""

    canvas: Canvas
    allowed: Bound
    rng: np.random.Generator
    latents: list[Float32]
    grey: bool = False
    #: The face's direction for each guide, as it was (`identity`), and that which the steps lead away from.
    own: list[Float32] = field(default_factory=list)
    away: list[Float32] = field(default_factory=list)
    momenta: list[Float32] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.momenta = [np.zeros_like(one) for one in self.latents]

    @cached_property
    def bound(self) -> Float32:
        """The whole bound in the template, (n, n)."""
        return _reduced(self.canvas.template_bound()[..., None], self.latents[0].shape[-1])[..., 0]

    @cached_property
    def slopes(self) -> list[Float32]:
        """How the face's brightness changes along the template's x and y, (112, 112, 3) each."""
        face = cut(self.canvas.pixels, self.canvas.matrix, unit=255)
        return [np.gradient(face, axis=axis).astype(np.float32) for axis in (1, 0)]

    @property
    def crop(self) -> Float32:
        """The face as it was, (3, 112, 112) in [0, 1]."""
        return seen_by(self.canvas.pixels.astype(np.float32), self.canvas.matrix)

    @property
    def change(self) -> Change:
        """The perturbation that the steps have found."""
        return Change(self.latents[0], self.latents[1] if self.allowed.warp > 0 else None)


def start_climb(
    pixels: UInt8,
    matrix: Float64,
    guides: Sequence[Guide],
    allowed: Bound,
    *,
    start: Change | None = None,
    grey: bool = False,
) -> Climb:
    """Return a face before its first step.

    Args:
        pixels: (H, W, 3) uint8 RGB, the whole photo.
        matrix: (2, 3), photo pixels to template pixels.
        start: where the steps begin; from a little noise, and a little warp, where it has none.
    """
    face = begin_climb(pixels, matrix, allowed, start=start, grey=grey)
    crop = face.crop
    face.own = with_idle_cores(lambda guide: identity(guide, crop), guides)
    decoys = drawn_decoys(face.rng, [one.shape[0] for one in face.own])
    face.away = [_with_decoy(one, decoy) for one, decoy in zip(face.own, decoys, strict=True)] if decoys else face.own
    return face


def begin_climb(
    pixels: UInt8, matrix: Float64, allowed: Bound, *, start: Change | None = None, grey: bool = False
) -> Climb:
    """As `start_climb`, but for what guides say: the face has neither its own directions yet, nor those away."""
    canvas = Canvas(pixels, matrix, allowed)
    content = canvas.pixels.tobytes() + np.round(canvas.matrix, 3).tobytes()
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(content).digest()[:8], "little"))
    side = min(CROP, max(1, round(CROP / scale_of(canvas.matrix))))
    noise = START * rng.standard_normal((3, side, side), np.float32)
    if start is not None:
        noise = _reduced(start.noise.transpose(1, 2, 0), side).transpose(2, 0, 1)
    warp = START * rng.standard_normal((2, KNOTS, KNOTS), np.float32)
    if start is not None and start.field is not None:
        warp = start.field.copy()
    return Climb(canvas, allowed, rng, [np.ascontiguousarray(noise), warp], grey=grey)


def identity(guide: Guide, crop: Float32) -> Float32:
    """Return what sets a face apart for a guide: its embedding from the middle of all faces, at unit length."""
    found = guide.embed(crop[None])[0] - guide.centre
    unit: Float32 = found / max(float(np.linalg.norm(found)), TINY)
    return unit


def drawn_decoys(rng: np.random.Generator, lengths: Sequence[int]) -> list[Float32]:
    """Draw a decoy of unit length for each of several guides; none for a single one."""
    found = []
    for length in lengths if len(lengths) > 1 else ():
        decoy = rng.standard_normal((length,), np.float32)
        found.append(decoy / np.linalg.norm(decoy))
    return found


def _with_decoy(own: Float32, decoy: Float32) -> Float32:
    """Return what leads away from the face and towards a place of this photo's own: else all photos of a person would
    meet.
    """
    found = own - np.float32(DECOY) * decoy
    reference: Float32 = (found / np.linalg.norm(found)).astype(np.float32)
    return reference


def climb(face: Climb, guides: Sequence[Guide], steps: int, *, room: float = 1.0) -> None:
    """Take so many steps, each smaller than the one before, away from the face's own embeddings.

    Args:
        room: the share of the bound that may be used, above 0 to 1.
    """
    for step in range(steps):
        back = _seen_gradient(face, guides)
        found = [_by_noise(face, back)]
        if face.allowed.warp > 0:
            found.append(_by_field(face, back))
        for index, one in enumerate(found):
            momentum = face.momenta[index]
            momentum *= MOMENTUM
            momentum -= one / max(float(np.abs(one).mean()), TINY)
            rate = REACH[index] / steps * 2 * (1 - step / steps)
            size = max(float(np.abs(momentum).mean()), TINY)
            face.latents[index] += np.float32(rate) * np.tanh(SOFTNESS / size * momentum)
            np.clip(face.latents[index], -room, room, out=face.latents[index])


def rendered(canvas: Canvas, change: Change, allowed: Bound, *, grey: bool = False) -> Float32:
    """Return the canvas with a change on it: (h, w, 3) float32 in levels, not rounded."""
    image, found = canvas.levels.copy(), Drawing(change, canvas, allowed, grey=grey).on_face(canvas)
    np.clip(found, 0, 255, out=image[canvas.face])
    return image


def through_jpeg(image: Float32, quality: int) -> Float32:
    """(h, w, 3) float32 RGB in levels, rounded and through JPEG."""
    pixels = cv2.cvtColor(np.rint(image).astype(np.uint8), cv2.COLOR_RGB2BGR)
    coded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    back = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    return np.asarray(cv2.cvtColor(back, cv2.COLOR_BGR2RGB), np.float32)


def _seen_gradient(face: Climb, guides: Sequence[Guide]) -> Float32:
    """Return the likeness's gradient by the face in the template, (112, 112, 3), as one view shows it."""
    image = rendered(face.canvas, face.change, face.allowed, grey=face.grey)
    chance = Chance.drawn(face.rng, len(guides))
    if chance.quality:
        image = through_jpeg(image, chance.quality)
    view, soft = chance.noise.view, chance.soft
    crop = _softened(seen_by(image, view @ np.vstack([face.canvas.matrix, (0, 0, 1)])), soft)
    total = np.zeros_like(crop)
    # The guides of a single face have a core each.
    climbs = with_idle_cores(lambda index: guides[index].climb(crop[None], face.away[index]), chance.chosen)
    for _, (gradient,) in climbs:
        total += gradient / max(float(np.abs(gradient).mean()), TINY)
    back = np.ascontiguousarray(_softened(total, soft).transpose(1, 2, 0))
    return np.asarray(cv2.GaussianBlur(warp_affine(back, view, CROP, CROP), (0, 0), DRAWN), np.float32)


def _softened(crop: Float32, sigma: float) -> Float32:
    return np.stack([blurred(channel, sigma) for channel in crop]).astype(np.float32) if sigma else crop


def seen_by(image: Float32, matrix: Float64) -> Float32:
    """(3, 112, 112) in [0, 1] of an image in levels, with larger ones averaged down first."""
    return np.ascontiguousarray(np.clip(cut(image, matrix, unit=255), 0, 1).transpose(2, 0, 1))


def _by_noise(face: Climb, gradient: Float32) -> Float32:
    side = face.latents[0].shape[-1]
    found = np.ascontiguousarray(_reduced(gradient, side).transpose(2, 0, 1)) * face.bound
    return in_colour_back(found, 0.0 if face.grey else face.allowed.chroma)


def _by_field(face: Climb, gradient: Float32) -> Float32:
    """Return the transpose of `shifts`, by how the face's brightness changes where points shift."""
    mask, knots = face_mask(CROP, WARP_FEATHER), spread()
    along = (gradient * slope for slope in face.slopes)
    by_shift = np.stack([(one[..., 0] + one[..., 1] + one[..., 2]) * mask for one in along])
    drawn = np.stack([knots @ one @ knots.T for one in face.latents[1]])
    length = np.maximum(np.sqrt((drawn * drawn).sum(0)), TINY)
    outwards = (by_shift * drawn).sum(0) / length**2 * drawn
    by_drawn = np.where(length > 1, (by_shift - outwards) / length, by_shift)
    return np.stack([knots.T @ one @ knots for one in by_drawn]).astype(np.float32)


def _reduced(image: Float32, side: int) -> Float32:
    image = np.ascontiguousarray(image, np.float32)
    return reduce_area(image, side, side) if side < len(image) else image
