"""Align and crop faces. Without torch.

Coordinates are (x, y) in pixels with (0, 0) at the centre of the first pixel, in the photo and in the template, so that
pixel i covers [i - 0.5, i + 0.5]. A matrix is (2, 3) float64 and takes photo pixels to template pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apf.faces.geometry import CROP, Float64, bounds_of, clipped, nonempty, scale_of, square_depth, zoom
from apf.faces.resampling import reduce_area, warp_affine

__all__ = [
    "ARCFACE_TEMPLATE",
    "CROP",
    "MIN_LANDMARK_FIT",
    "TYPICAL_BOX",
    "Box",
    "Face",
    "Float32",
    "Float64",
    "Points",
    "UInt8",
    "align",
    "alignment",
    "cut",
    "face_from",
    "footprint",
]

UInt8 = NDArray[np.uint8]
Float32 = NDArray[np.float32]
Points = Sequence[Sequence[float]] | NDArray[np.floating]
Box = tuple[float, float, float, float]

#: Where ArcFace expects left eye, right eye, nose, left and right corner of the mouth (left as the viewer sees it).
ARCFACE_TEMPLATE: Float64 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
#: Correlation of landmarks and template below which they are no face. A full profile has 0.78, a mirrored face 0.23.
MIN_LANDMARK_FIT = 0.5


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
    """Return the similarity (rotation, scale, shift; no mirroring) that takes five landmarks to the template by least
    squares.

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
    crop = cut(pixels, matrix, unit=255)
    return np.ascontiguousarray(np.clip(crop, 0, 1).transpose(2, 0, 1))


def cut(image: NDArray[Any], matrix: Float64, *, unit: float) -> Float32:
    """Return what `align` cuts out of an (H, W, c) image, divided by `unit`: (112, 112, c) float32."""
    x1, y1, x2, y2 = nonempty(bounds_of(matrix, margin=2), image.shape)
    region = image[y1:y2, x1:x2]
    scale = min(1.0, scale_of(matrix))
    width, height = max(1, round((x2 - x1) * scale)), max(1, round((y2 - y1) * scale))
    if (width, height) != (x2 - x1, y2 - y1):
        region = reduce_area(region, width, height)
    # Reduced-region pixels to photo pixels, then on to the template.
    to_photo = zoom((x2 - x1) / width, (y2 - y1) / height, x1, y1)
    to_region = np.linalg.inv(np.vstack([matrix @ to_photo, (0, 0, 1)]))[:2]
    return warp_affine(region.astype(np.float32) / unit, to_region, CROP, CROP)


def footprint(matrix: Float64, shape: Sequence[int]) -> NDArray[np.bool_]:
    """Which pixels of an (H, W, ...) photo lie inside the crop's square, as (H, W) bool. `paste` changes no other."""
    mask = np.zeros(tuple(shape[:2]), dtype=np.bool_)
    x1, y1, x2, y2 = rect = clipped(bounds_of(matrix), shape)
    mask[y1:y2, x1:x2] = square_depth(matrix, rect) > 0
    return mask


def face_from(box: Box, landmarks: Points, score: float) -> Face:
    """Return a detection as a `Face`. Where its landmarks are no face, the template laid into its box takes their
    place.

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
    """Return the template's five points, (5, 2), upright in a box of the photo."""
    x1, y1, x2, y2 = TYPICAL_BOX
    scale = np.sqrt((box[2] - box[0]) * (box[3] - box[1]) / ((x2 - x1) * (y2 - y1)))
    middle = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
    points: Float64 = (ARCFACE_TEMPLATE - ((x1 + x2) / 2, (y1 + y2) / 2)) * scale + middle
    return points


def _fits(landmarks: Float64, box: Box) -> bool:
    """Return whether landmarks are a face, and the face that the box shows (its middle in the crop, of like size)."""
    try:
        matrix = alignment(landmarks)
    except ValueError:
        return False
    middle = matrix @ ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2, 1)
    side = scale_of(matrix) * np.sqrt((box[2] - box[0]) * (box[3] - box[1]))  # of the box, in template pixels
    return bool((middle >= 0).all() and (middle < CROP).all() and CROP / 3 < side < CROP * 2)
