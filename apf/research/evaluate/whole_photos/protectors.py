"""Ways to protect a whole photo: none, ours by the product's own road, and rivals whose crops are pasted."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from apf.attack.bound import Bound
from apf.attack.canvas import Canvas
from apf.attack.paste import paste
from apf.attack.perturbation import Change, Drawing
from apf.detection.detector import Detector, load_detector
from apf.faces.alignment import Face, Float64, UInt8, align, alignment
from apf.filters.load import PhotoFilter, load_filter
from apf.photo import Photo, decode, encode
from apf.protect.pipeline import hide_faces
from apf.protect.publish import encoded, pasted
from apf.recipe import Recipe
from apf.research.evaluate.rivals.types import Perturb
from apf.research.evaluate.targets import Target
from apf.research.evaluate.whole_photos.same import names_of
from apf.runtime.stage_clock import StageClock


@dataclass(frozen=True)
class Protected:
    """A photo's upright pixels, (H, W, 3) uint8 RGB, on their way out."""

    pixels: UInt8
    #: The same with the warps undone.
    still: UInt8
    #: As decoded from what goes out.
    published: UInt8
    faces: tuple[Face, ...] = ()
    changes: tuple[Change, ...] = ()
    #: Of the warp, as a share of the face's side.
    warp: float = 0.0
    #: Faces that the recipe's jury still knows.
    weak: int = 0
    #: Wall seconds for all faces, from the aligned face to the pasted one.
    seconds: float = 0.0


#: Protects a photo.
Protector = Callable[[Photo], Protected]


@dataclass(frozen=True)
class Ready:
    """A way to protect photos that has loaded what it needs."""

    protect: Protector
    #: Names of the recognisers that it climbs on, or that say when it may stop.
    guides: tuple[str, ...] = ()


@dataclass(frozen=True)
class PhotoMethod:
    """One row."""

    name: str
    #: Loads what is needed. May raise the errors of `load_filter`.
    build: Callable[[], Ready]
    #: All that the protected photo depends on but the photo: equal keys, equal pixels.
    key: str
    #: The recipe that this row shows; empty for others.
    recipe: str = ""


def unprotected() -> PhotoMethod:
    """Return the photo as it is: whom recognisers do not match anyway."""
    return PhotoMethod("none", lambda: Ready(lambda photo: Protected(photo.pixels, photo.pixels, photo.pixels)), "none")


def by_recipe(recipe: Recipe, targets: Sequence[Target], device: str = "cpu") -> PhotoMethod:
    """Ours, by the road that the product's photos go."""

    def build() -> Ready:
        filter_ = load_filter(recipe, device)
        guides = [*filter_.guides.climbed, *filter_.guides.jury]
        return Ready(lambda photo: by_filter(photo, filter_), names_of(guides, targets))

    return PhotoMethod(f"ours: {recipe.name}", build, f"{recipe.id} {device}", recipe.name)


def by_filter(photo: Photo, filter_: PhotoFilter) -> Protected:
    """Return the photo as the product protects it, and once more without its faces' warps."""
    recipe, clock, start = filter_.recipe, StageClock(), time.perf_counter()
    (own,) = hide_faces([photo], filter_, clock)
    changes = tuple(one.change for one in own.hidden)
    out = pasted(photo, own.faces, own.matrices, changes, recipe, verdicts=[one.verdict for one in own.hidden])
    seconds = time.perf_counter() - start - clock.seconds["detect"]
    allowed, still = Bound.of(recipe), out.pixels
    if any(change.field is not None for change in changes):
        unwarped = [Change(change.noise) for change in changes]
        still = paste(photo.pixels, unwarped, own.matrices, allowed, grey=photo.grey)
    published = decode(encoded(out, recipe)).pixels
    return Protected(out.pixels, still, published, own.faces, changes, allowed.warp, out.weak, seconds)


def by_rival(name: str, build: Callable[[], Perturb], key: str, guides: Sequence[str], recipe: Recipe) -> PhotoMethod:
    """Return a rival's perturbation of the aligned face, pasted under one even bound and encoded as ours are.

    Args:
        guides: names of the recognisers that it climbs on.
        recipe: says epsilon, the detector and how JPEGs leave.
    """

    def ready() -> Ready:
        detector, perturb = load_detector(recipe.detector), build()
        return Ready(lambda photo: _pasted_evenly(photo, perturb, detector, recipe), tuple(guides))

    return PhotoMethod(name, ready, f"{key} {recipe.detector} {recipe.jpeg_floor_quality}")


def _pasted_evenly(photo: Photo, perturb: Perturb, detector: Detector, recipe: Recipe) -> Protected:
    faces = detector.detect([photo.pixels])[0]
    start = time.perf_counter()
    matrices = [alignment(face.landmarks) for face in faces]
    pixels = photo.pixels
    if faces:
        deltas = perturb(torch.stack([torch.from_numpy(align(pixels, matrix)) for matrix in matrices])).cpu().numpy()
        pixels = pasted_evenly(photo, list(deltas / np.float32(recipe.epsilon)), matrices, recipe.epsilon_levels)
    seconds = time.perf_counter() - start
    published = decode(encode(photo, pixels, jpeg_floor_quality=recipe.jpeg_floor_quality)).pixels
    return Protected(pixels, pixels, published, tuple(faces), seconds=seconds)


def pasted_evenly(photo: Photo, units: Sequence[np.ndarray], matrices: Sequence[Float64], levels: float) -> UInt8:
    """Perturbations (3, 112, 112) in [-1, 1] in their faces' places, where every pixel may move by so many levels."""
    even = Bound(levels, chroma=1.0, warp=0.0)
    height, width = photo.pixels.shape[:2]
    total = np.zeros((height, width, 1 if photo.grey else 3), np.float32)
    for unit, matrix in zip(units, matrices, strict=True):
        drawing = Drawing(Change(unit), Canvas(photo.pixels, matrix, even), even, matrix, grey=photo.grey)
        total += drawing.noise((0, 0, width, height))
    moved = np.rint(photo.pixels + levels * np.clip(total, -1, 1))
    return np.clip(moved, 0, 255).astype(np.uint8)
