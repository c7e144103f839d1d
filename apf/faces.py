"""From photo to aligned face and back: alignment, crop, paste. Without torch.

Coordinates are (x, y) in pixels with (0, 0) at the centre of the first pixel, in the photo and in the template, so that
pixel i covers [i - 0.5, i + 0.5]. A matrix is (2, 3) float64 and takes photo pixels to template pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apf.raster import reduce_area, warp_affine

UInt8 = NDArray[np.uint8]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Points = Sequence[Sequence[float]] | NDArray[np.floating]
Box = tuple[float, float, float, float]
#: x1, y1, x2, y2 in whole photo pixels, the last two excluded.
Rect = tuple[int, int, int, int]

#: Side of the aligned face, in template pixels.
CROP = 112
#: Where ArcFace expects left eye, right eye, nose, left and right corner of the mouth (left as the viewer sees it).
ARCFACE_TEMPLATE: Float64 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
#: The perturbation fades out over this many template pixels at the crop's edge (4 % of it), so that no square shows.
FEATHER = 4.0
#: How often what pasting and cutting out loses of a perturbation is added.
CORRECTIONS = 2
#: Photo pixels a template pixel up to which that loss is tried.
TRIED_SCALE = 4.0
#: Correlation of landmarks and template below which they are no face. A full profile has 0.78, a mirrored face 0.23.
MIN_LANDMARK_FIT = 0.5
#: Rows pasted at a time: bounds the memory of a face that fills a large photo.
BAND_ROWS = 64


@dataclass(frozen=True)
class Face:
    """A face in a photo."""

    #: x1, y1, x2, y2 in photo pixels, upright.
    box: Box
    #: Left eye, right eye, nose, left and right corner of the mouth, as (x, y) in photo pixels.
    landmarks: tuple[tuple[float, float], ...]
    #: The detector's confidence in [0, 1].
    score: float
    #: The detector's landmarks were no face; these are the template's, laid into the box.
    guessed: bool = False


def alignment(landmarks: Points) -> Float64:
    """The similarity (rotation, scale, shift; no mirroring) that takes five landmarks to the template by least squares.

    Umeyama's solution. In two dimensions it has a closed form: with points as complex numbers it is w = a z + b.

    Args:
        landmarks: (5, 2), photo pixels, in the order of `ARCFACE_TEMPLATE`.

    Returns:
        (2, 3) float64, photo pixels to template pixels.

    Raises:
        ValueError: not five finite points, all in one place, or arranged like no face (mirrored, shuffled).
    """
    points = np.asarray(landmarks, dtype=np.float64)
    if points.shape != (5, 2) or not np.isfinite(points).all():
        raise ValueError(f"landmarks must be five finite (x, y) points, not {points.tolist()}")
    source, target = points @ (1, 1j), ARCFACE_TEMPLATE @ (1, 1j)
    z, w = source - source.mean(), target - target.mean()
    spread = float(np.vdot(z, z).real)
    if spread < 1e-6:  # square pixels; below it the five are one point
        raise ValueError(f"landmarks lie in one place: {points.tolist()}")
    fit = abs(np.vdot(z, w)) / np.sqrt(spread * np.vdot(w, w).real)
    if fit < MIN_LANDMARK_FIT:
        raise ValueError(f"landmarks are arranged like no face (fit {fit:.2f} < {MIN_LANDMARK_FIT}): {points.tolist()}")
    a = np.vdot(z, w) / spread
    b = target.mean() - a * source.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def align(pixels: UInt8, matrix: Float64) -> Float32:
    """Cut a face out, upright and in the template's place.

    A face larger than the template is first reduced by averaging, so that nothing aliases; a smaller one is enlarged
    bilinearly. Beyond the photo's edge its last pixels are repeated.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        matrix: (2, 3), photo pixels to template pixels.

    Returns:
        (3, 112, 112) float32 RGB in [0, 1].
    """
    crop = _cut(pixels, matrix, unit=255)
    return np.ascontiguousarray(np.clip(crop, 0, 1).transpose(2, 0, 1))


def _cut(image: NDArray[Any], matrix: Float64, *, unit: float) -> Float32:
    """What `align` cuts out of an (H, W, c) image, divided by `unit`: (112, 112, c) float32."""
    x1, y1, x2, y2 = _nonempty(_bounds(matrix, margin=2), image.shape)
    region = image[y1:y2, x1:x2]
    scale = min(1.0, _scale(matrix))
    width, height = max(1, round((x2 - x1) * scale)), max(1, round((y2 - y1) * scale))
    if (width, height) != (x2 - x1, y2 - y1):
        region = reduce_area(region, width, height)
    # Reduced-region pixels to photo pixels, then on to the template.
    to_photo = _zoom((x2 - x1) / width, (y2 - y1) / height, x1, y1)
    to_region = np.linalg.inv(np.vstack([matrix @ to_photo, (0, 0, 1)]))[:2]
    return warp_affine(region.astype(np.float32) / unit, to_region, CROP, CROP)


def paste(
    pixels: UInt8,
    deltas: Sequence[Float32],
    matrices: Sequence[Float64],
    *,
    epsilon_levels: int,
    grey: bool,
    in_place: bool = False,
) -> UInt8:
    """Add aligned perturbations to a photo, each in its face's place.

    No pixel moves by more than `epsilon_levels`, also where faces overlap (their perturbations are summed, then
    clamped); pixels outside every `footprint` stay as they are. The order of the faces does not matter.

    Args:
        pixels: (H, W, 3) uint8 RGB; not changed, unless `in_place`.
        deltas: one (3, 112, 112) float32 for each face, in units of [0, 1] pixels.
        matrices: one (2, 3) for each face, photo pixels to template pixels.
        epsilon_levels: the bound in levels of 255.
        grey: the photo is grey: perturb the three channels alike.
        in_place: change `pixels` itself, where it can be written to: a large photo is then not copied.

    Returns:
        (H, W, 3) uint8 RGB; a new array, unless `in_place`.

    Raises:
        ValueError: a delta has another shape or is not finite, or there is not one matrix for each.
    """
    if len(deltas) != len(matrices):
        raise ValueError(f"{len(deltas)} deltas for {len(matrices)} matrices: give one each")
    for delta in deltas:
        if delta.shape != (3, CROP, CROP) or not np.isfinite(delta).all():
            raise ValueError(f"a delta must be finite and (3, {CROP}, {CROP}), not {delta.shape}")
    out = pixels if in_place and pixels.flags.writeable else pixels.copy()
    # Floating-point sums depend on their order, so overlapping faces are added in one that is their own.
    order = sorted(range(len(deltas)), key=lambda i: (matrices[i].tobytes(), deltas[i].tobytes()))
    patches = [_Patch.of(deltas[i], matrices[i], pixels.shape, grey=grey, bound=epsilon_levels) for i in order]
    for rect, inside in _bands(patches):
        x1, y1, x2, y2 = rect
        total = np.zeros((y2 - y1, x2 - x1, 1 if grey else 3), np.float32)
        for patch in inside:
            patch.add_to(total, rect)
        np.clip(total, -epsilon_levels, epsilon_levels, out=total)
        total = total + pixels[y1:y2, x1:x2]
        np.rint(total, out=total)
        np.clip(total, 0, 255, out=total)
        out[y1:y2, x1:x2] = total
    return out


def footprint(matrix: Float64, shape: Sequence[int]) -> NDArray[np.bool_]:
    """Which pixels of an (H, W, ...) photo lie inside the crop's square, as (H, W) bool. `paste` changes no other."""
    mask = np.zeros(tuple(shape[:2]), dtype=np.bool_)
    x1, y1, x2, y2 = rect = _clip(_bounds(matrix), shape)
    mask[y1:y2, x1:x2] = _depth(matrix, rect) > 0
    return mask


def face_from(box: Box, landmarks: Points, score: float) -> Face:
    """A detection as a `Face`. Where its landmarks are no face, the template laid into its box takes their place.

    A face must not stay unprotected because its landmarks failed.

    Raises:
        ValueError: the box is empty or not finite.
    """
    if not (np.isfinite(box).all() and box[0] < box[2] and box[1] < box[3]):
        raise ValueError(f"a face's box must be finite and not empty, not {box}")
    points, guessed = np.asarray(landmarks, dtype=np.float64), False
    if not _fits(points, box):
        points, guessed = _landmarks_in(box), True
    x1, y1, x2, y2 = (float(edge) for edge in box)
    return Face((x1, y1, x2, y2), tuple((float(x), float(y)) for x, y in points), float(score), guessed)


#: Where a detector's box lies in the template, as x1, y1, x2, y2: the median over the faces of real photos.
TYPICAL_BOX: Box = (15.0, 11.0, 98.0, 118.0)


def _landmarks_in(box: Box) -> Float64:
    """The template's five points, (5, 2), upright in a box of the photo."""
    x1, y1, x2, y2 = TYPICAL_BOX
    scale = np.sqrt((box[2] - box[0]) * (box[3] - box[1]) / ((x2 - x1) * (y2 - y1)))
    middle = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
    points: Float64 = (ARCFACE_TEMPLATE - ((x1 + x2) / 2, (y1 + y2) / 2)) * scale + middle
    return points


def _fits(landmarks: Float64, box: Box) -> bool:
    """Whether landmarks are a face, and the face that the box shows (its middle in the crop, of like size)."""
    try:
        matrix = alignment(landmarks)
    except ValueError:
        return False
    middle = matrix @ ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2, 1)
    side = _scale(matrix) * np.sqrt((box[2] - box[0]) * (box[3] - box[1]))  # of the box, in template pixels
    return bool((middle >= 0).all() and (middle < CROP).all() and CROP / 3 < side < CROP * 2)


@dataclass(frozen=True)
class _Patch:
    """One face's perturbation, in levels, ready to be drawn into any part of the photo."""

    #: (n, n, 3 or 1) float32; n < 112 where the face in the photo is smaller than the template.
    delta: Float32
    matrix: Float64
    #: The part of the photo that it touches.
    rect: Rect

    @classmethod
    def of(cls, delta: Float32, matrix: Float64, shape: Sequence[int], *, grey: bool, bound: int) -> _Patch:
        """The patch that, pasted within the bound and cut out again, comes nearest to the perturbation.

        Drawing and cutting out both average neighbours: uncorrected, a fifth of the amplitude is lost. What is missing
        is added and tried again (iterative back-projection, Irani and Peleg 1991).
        """
        wanted = delta.transpose(1, 2, 0).astype(np.float32) * 255
        if grey:
            wanted = wanted.mean(axis=2, keepdims=True)
        # Beyond a few photo pixels a template pixel the loss stays the same: large faces are tried in a smaller photo.
        factor = max(1.0, 1 / (TRIED_SCALE * _scale(matrix)))
        tried = matrix @ _zoom(factor, factor)
        rect = _clip(_bounds(tried), [math.ceil(side / factor) for side in shape[:2]])
        levels = wanted
        for _ in range(CORRECTIONS if _area(rect) else 0):
            drawn = np.clip(cls._fitted(levels, tried, rect)._drawn(rect), -bound, bound)
            levels = levels + wanted - _cut(drawn, tried @ _zoom(1, 1, *rect[:2]), unit=1)
        return cls._fitted(levels, matrix, _clip(_bounds(matrix), shape))

    @classmethod
    def _fitted(cls, levels: Float32, matrix: Float64, rect: Rect) -> _Patch:
        side = min(CROP, max(1, round(CROP / _scale(matrix))))
        small = reduce_area(levels, side, side) if side < CROP else levels
        return cls(np.ascontiguousarray(small), matrix, rect)

    def add_to(self, total: Float32, frame: Rect) -> None:
        """Add this face's part of `frame` (photo pixels) to `total`, which has the frame's size."""
        x1, y1, x2, y2 = part = _intersection(self.rect, frame)
        mask = _depth(self.matrix, part)
        mask /= FEATHER
        np.clip(mask, 0, 1, out=mask)
        drawn = self._drawn(part)
        drawn *= mask[..., None]
        total[y1 - frame[1] : y2 - frame[1], x1 - frame[0] : x2 - frame[0]] += drawn

    def _drawn(self, part: Rect) -> Float32:
        """The perturbation in a part of the photo, (h, w, c), without the feathered edge."""
        x1, y1, x2, y2 = part
        side = len(self.delta)
        # Pixels of `part` to photo, to template, to the (perhaps reduced) delta.
        to_photo = np.array([[1.0, 0, x1], [0, 1, y1], [0, 0, 1]])
        to_delta = np.linalg.inv(_zoom(CROP / side, CROP / side))[:2] @ np.vstack([self.matrix @ to_photo, (0, 0, 1)])
        return warp_affine(self.delta, to_delta, x2 - x1, y2 - y1)


def _bands(patches: Sequence[_Patch]) -> Iterator[tuple[Rect, list[_Patch]]]:
    """Disjoint rectangles of at most `BAND_ROWS` rows that cover all patches, each with the patches in it, in order."""
    patches = [p for p in patches if _area(p.rect)]
    if not patches:
        return
    for top in range(min(p.rect[1] for p in patches), max(p.rect[3] for p in patches), BAND_ROWS):
        inside = [p for p in patches if p.rect[1] < top + BAND_ROWS and p.rect[3] > top]
        for left, right in _merged([(p.rect[0], p.rect[2]) for p in inside]):
            group = [p for p in inside if p.rect[0] < right and p.rect[2] > left]
            first, last = min(p.rect[1] for p in group), max(p.rect[3] for p in group)
            yield (left, max(top, first), right, min(top + BAND_ROWS, last)), group


def _merged(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The union of spans as disjoint ones, left to right."""
    union: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if union and start < union[-1][1]:
            union[-1] = (union[-1][0], max(union[-1][1], stop))
        else:
            union.append((start, stop))
    return union


def _scale(matrix: Float64) -> float:
    """Template pixels a photo pixel."""
    return float(np.hypot(matrix[0, 0], matrix[1, 0]))


def _zoom(x_factor: float, y_factor: float, left: float = 0, top: float = 0) -> Float64:
    """(3, 3) from a reduced grid to the grid whose pixels it averaged, starting at pixel (left, top)."""
    return np.array([[x_factor, 0, left + (x_factor - 1) / 2], [0, y_factor, top + (y_factor - 1) / 2], [0, 0, 1]])


def _depth(matrix: Float64, rect: Rect) -> Float32:
    """How many template pixels deep each pixel of a rectangle lies inside the crop: (h, w), negative outside."""
    x, y = np.arange(rect[0], rect[2]), np.arange(rect[1], rect[3])
    half = CROP / 2
    # From the crop's middle, so that float32 is enough.
    u, v = (
        np.add.outer((row[1] * y + (row[2] - half + 0.5)).astype(np.float32), (row[0] * x).astype(np.float32))
        for row in matrix
    )
    np.maximum(np.abs(u, out=u), np.abs(v, out=v), out=u)
    depth: Float32 = np.subtract(np.float32(half), u, out=u)
    return depth


def _bounds(matrix: Float64, margin: int = 0) -> Rect:
    """The upright rectangle around the crop's square in the photo, not clipped."""
    low, high = -0.5, CROP - 0.5
    corners = np.array([[low, high, high, low], [low, low, high, high]])
    inside = np.linalg.solve(matrix[:, :2], corners - matrix[:, 2:])
    (x1, y1), (x2, y2) = np.floor(inside.min(axis=1)), np.ceil(inside.max(axis=1))
    return int(x1) - margin, int(y1) - margin, int(x2) + 1 + margin, int(y2) + 1 + margin


def _clip(rect: Rect, shape: Sequence[int]) -> Rect:
    return _intersection(rect, (0, 0, shape[1], shape[0]))


def _nonempty(rect: Rect, shape: Sequence[int]) -> Rect:
    """The rectangle within the photo; where it misses the photo altogether, the pixels nearest to it."""
    x1, y1 = min(max(rect[0], 0), shape[1] - 1), min(max(rect[1], 0), shape[0] - 1)
    return x1, y1, min(max(rect[2], x1 + 1), shape[1]), min(max(rect[3], y1 + 1), shape[0])


def _intersection(a: Rect, b: Rect) -> Rect:
    x1, y1 = max(a[0], b[0]), max(a[1], b[1])
    return x1, y1, max(x1, min(a[2], b[2])), max(y1, min(a[3], b[3]))


def _area(rect: Rect) -> int:
    return (rect[2] - rect[0]) * (rect[3] - rect[1])
