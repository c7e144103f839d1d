"""Paste the changes of faces into the photo, within the bound. Without torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from apf.attack.bound import Bound
from apf.attack.canvas import Canvas
from apf.attack.outline import FACE_SIDE
from apf.attack.perturbation import Change, Drawing
from apf.faces.alignment import Float32, UInt8
from apf.faces.geometry import Float64, Rect, area, bounds_of, clipped, intersection, scale_of
from apf.faces.resampling import remap_cubic

#: Rows and columns drawn at a time: bounds the memory of a face that fills a large photo.
BAND_ROWS, BAND_COLUMNS = 64, 4096
#: Pixels around a place that bicubic sampling looks at.
TAPS = 3
TINY = 1e-12


@dataclass(frozen=True, eq=False)
class _Patch:
    """One face's drawing, and the part of the photo that it touches."""

    drawing: Drawing
    rect: Rect
    #: Photo pixels that a point shifts at most.
    reach: float


def paste(
    pixels: UInt8,
    changes: Sequence[Change],
    matrices: Sequence[Float64],
    allowed: Bound,
    *,
    grey: bool = False,
    in_place: bool = False,
    canvases: Sequence[Canvas | None] = (),
) -> UInt8:
    """Draw changes into a photo, each in its face's place.

    First points shift by the warps, then each pixel moves by no more than its bound (`apf.attack.bound`), in whole
    levels; where faces overlap their shifts and perturbations are summed, then cut to the larger bound. Pixels outside
    every face's outline stay as they are. The order of the faces does not matter.

    Args:
        pixels: (H, W, 3) uint8 RGB; not changed, unless `in_place`.
        changes: one for each face.
        matrices: one (2, 3) for each face, photo pixels to template pixels.
        grey: the photo is grey: perturb the three channels alike.
        in_place: change `pixels` itself, where it can be written to: of a large photo only the faces are copied.
        canvases: those of the same faces in the same photo under the same bound, where they are there already.

    Returns:
        (H, W, 3) uint8 RGB; a new array, unless `in_place`.

    Raises:
        ValueError: there is not one matrix for each change.
    """
    if len(changes) != len(matrices):
        raise ValueError(f"{len(changes)} changes for {len(matrices)} matrices: give one each")
    patches = _patches(pixels, changes, matrices, allowed, grey=grey, canvases=canvases)
    # All is drawn before anything is written: warps read around their band.
    drawn = [(rect, _drawn(pixels, rect, inside)) for rect, inside in _bands(patches)]
    out = pixels if in_place and pixels.flags.writeable else pixels.copy()
    for (x1, y1, x2, y2), part in drawn:
        out[y1:y2, x1:x2] = part
    return out


def _patches(
    pixels: UInt8,
    changes: Sequence[Change],
    matrices: Sequence[Float64],
    allowed: Bound,
    *,
    grey: bool,
    canvases: Sequence[Canvas | None] = (),
) -> list[_Patch]:
    """In an order that is their own: floating-point sums depend on it."""
    order = sorted(range(len(changes)), key=lambda i: (matrices[i].tobytes(), changes[i].noise.tobytes()))
    found = []
    for i in order:
        rect = clipped(bounds_of(matrices[i]), pixels.shape)
        if area(rect):
            known = canvases[i] if canvases else None
            drawing = Drawing(
                changes[i], known or Canvas(pixels, matrices[i], allowed), allowed, matrices[i], grey=grey
            )
            found.append(_Patch(drawing, rect, allowed.warp * FACE_SIDE / scale_of(matrices[i])))
    return found


def _drawn(pixels: UInt8, rect: Rect, patches: Sequence[_Patch]) -> UInt8:
    """Return a part of the photo with the patches on it, (h, w, 3)."""
    height, width = rect[3] - rect[1], rect[2] - rect[0]
    bound, reach = (np.zeros((height, width, 1), np.float32) for _ in range(2))
    moved, shift = (np.zeros((height, width, depth), np.float32) for depth in (3, 2))
    for patch in patches:
        x1, y1, x2, y2 = part = intersection(patch.rect, rect)
        at = slice(y1 - rect[1], y2 - rect[1]), slice(x1 - rect[0], x2 - rect[0])
        own = patch.drawing.bound(part)[..., None]
        bound[at] = np.maximum(bound[at], own)
        moved[at] += patch.drawing.noise(part) * own
        if patch.drawing.warps:
            one = patch.drawing.shift(part)
            shift[at] += one
            reach[at] = np.maximum(reach[at], patch.reach * one.any(-1, keepdims=True))
    before = _shifted(pixels, rect, shift, reach)
    after, base = np.rint(before + moved), np.rint(before)
    found: UInt8 = np.clip(np.clip(after, base - bound, base + bound), 0, 255).astype(np.uint8)
    return found


def _shifted(pixels: UInt8, rect: Rect, shift: Float32, reach: Float32) -> Float32:
    """Return a part of the photo with its points shifted, each by no more than its reach: (h, w, 3) float32 in
    levels.
    """
    x1, y1, x2, y2 = rect
    if not reach.any():
        return pixels[y1:y2, x1:x2].astype(np.float32)
    length = np.sqrt((shift * shift).sum(-1, keepdims=True))
    shift = shift * np.minimum(1, reach / np.maximum(length, TINY))
    margin = math.ceil(float(reach.max())) + TAPS
    left, top, right, bottom = clipped((x1 - margin, y1 - margin, x2 + margin, y2 + margin), pixels.shape)
    x, y = np.meshgrid(
        np.arange(x1 - left, x2 - left, dtype=np.float32), np.arange(y1 - top, y2 - top, dtype=np.float32)
    )
    found = remap_cubic(pixels[top:bottom, left:right], x + shift[..., 0], y + shift[..., 1])
    return np.clip(found, 0, 255)


def _bands(patches: Sequence[_Patch]) -> Iterator[tuple[Rect, list[_Patch]]]:
    """Disjoint rectangles of at most `BAND_ROWS` rows that cover all patches, each with the patches in it, in order."""
    if not patches:
        return
    for top in range(min(p.rect[1] for p in patches), max(p.rect[3] for p in patches), BAND_ROWS):
        inside = [p for p in patches if p.rect[1] < top + BAND_ROWS and p.rect[3] > top]
        for left, right in _cut(_merged([(p.rect[0], p.rect[2]) for p in inside])):
            group = [p for p in inside if p.rect[0] < right and p.rect[2] > left]
            first, last = min(p.rect[1] for p in group), max(p.rect[3] for p in group)
            yield (left, max(top, first), right, min(top + BAND_ROWS, last)), group


def _cut(spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the spans in pieces of at most `BAND_COLUMNS`."""
    for start, stop in spans:
        for left in range(start, stop, BAND_COLUMNS):
            yield left, min(left + BAND_COLUMNS, stop)


def _merged(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the union of spans as disjoint ones, left to right."""
    union: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if union and start < union[-1][1]:
            union[-1] = (union[-1][0], max(union[-1][1], stop))
        else:
            union.append((start, stop))
    return union
