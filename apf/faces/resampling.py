"""Warp, reduce, blur and turn pixels, by OpenCV where it is there, else by NumPy.

OpenCV does them where it is installed. Where it is not, NumPy does the same a few times slower: a device that only
computes gradients (`apf.private`) need not carry 160 MB of OpenCV for them. Both are exact, and agree up to rounding.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    import cv2
except ImportError:  # pragma: no cover - the client's own test runs without it
    cv2 = None  # type: ignore[assignment]

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

#: Of each EXIF orientation, after rows were made columns where it is 5 or more: mirrored down, mirrored across.
_MIRRORED = {2: (False, True), 3: (True, True), 4: (True, False), 6: (False, True), 7: (True, True), 8: (True, False)}

#: Rows that NumPy works on at once: bounds its memory.
BAND_ROWS = 256


def warp_affine(image: Float32, to_image: Float64, width: int, height: int) -> Float32:
    """Return what an affine map shows of an image, bilinearly; beyond the edges their last pixels are repeated.

    Args:
        image: (h, w, c) float32.
        to_image: (2, 3), pixels of the result to pixels of the image, whole numbers at pixel centres.

    Returns:
        (height, width, c) float32.
    """
    if cv2 is None:
        return warp_affine_numpy(image, to_image, width, height)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    found = cv2.warpAffine(image, to_image, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(found, np.float32).reshape(height, width, image.shape[2])


def reduce_area(image: NDArray[Any], width: int, height: int) -> NDArray[Any]:
    """Return an (h, w, c) uint8 or float32 image averaged down to (height, width, c), same dtype, at most its own
    size.
    """
    if cv2 is None:
        return reduce_area_numpy(image, width, height)
    small: NDArray[Any] = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return small.reshape(height, width, image.shape[2])


def blurred(image: Float32, sigma: float) -> Float32:
    """Return an (h, w) float32 image through a Gaussian of this width, in pixels; beyond the edges their last ones
    repeat.
    """
    reach = max(1, round(3 * sigma))
    if cv2 is None:
        return blurred_numpy(image, sigma, reach)
    size = (2 * reach + 1, 2 * reach + 1)
    return np.asarray(cv2.GaussianBlur(image, size, sigma, borderType=cv2.BORDER_REPLICATE), np.float32)


def remap_cubic(image: NDArray[Any], x: Float32, y: Float32) -> Float32:
    """Return an (h, w, c) uint8 or float32 image at places (H, W), bicubically; beyond the edges their last pixels
    repeat.

    Returns:
        (H, W, c) float32 in levels, which may overshoot.

    Raises:
        RuntimeError: OpenCV is not installed.
    """
    if cv2 is None:
        raise RuntimeError("a warp needs OpenCV: install opencv-python-headless")
    image = image.astype(np.float32, copy=False)
    found = cv2.remap(image, x, y, interpolation=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(found, np.float32).reshape(*x.shape, image.shape[2])


def turned(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Return a stored picture, (h, w, c) or (h, w), upright by its EXIF orientation, 1 (as it is stored) to 8;
    contiguous.
    """
    if orientation >= 5:  # rows are columns
        image = image.swapaxes(0, 1) if cv2 is None else np.asarray(cv2.transpose(image), np.uint8)
    down, across = _MIRRORED.get(orientation, (False, False))
    return np.ascontiguousarray(image[:: -1 if down else 1, :: -1 if across else 1])


def warp_affine_numpy(image: Float32, to_image: Float64, width: int, height: int) -> Float32:
    """As `warp_affine`."""
    out = np.empty((height, width, image.shape[2]), np.float32)
    for top in range(0, height, BAND_ROWS):
        rows = slice(top, min(top + BAND_ROWS, height))
        y, x = np.mgrid[rows, :width].astype(np.float64)
        u, v = (x * row[0] + y * row[1] + row[2] for row in to_image)
        out[rows] = _bilinear(image, u, v)
    return out


def reduce_area_numpy(image: NDArray[Any], width: int, height: int) -> NDArray[Any]:
    """As `reduce_area`."""
    out = np.empty((height, width, image.shape[2]), image.dtype)
    # OpenCV rounds halves to even, but for its special case of two by two pixels, which rounds them up.
    by_two = image.shape[:2] == (2 * height, 2 * width)
    for top in range(0, height, BAND_ROWS):
        rows = range(top, min(top + BAND_ROWS, height))
        fewer = _averaged(image, image.shape[0], height, rows, axis=0)
        band = _averaged(fewer, image.shape[1], width, range(width), axis=1)
        out[rows.start : rows.stop] = band if image.dtype == np.float32 else _whole(band, halves_up=by_two)
    return out


def blurred_numpy(image: Float32, sigma: float, reach: int) -> Float32:
    """As `blurred`, with a kernel of 2 reach + 1 pixels."""
    kernel = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).astype(np.float32)
    for axis in (0, 1):
        around = [(reach, reach) if one == axis else (0, 0) for one in (0, 1)]
        padded, length = np.pad(image, around, mode="edge"), image.shape[axis]
        image = np.zeros_like(image)
        for index, weight in enumerate(kernel):
            image += weight * np.take(padded, np.arange(index, index + length), axis=axis)
    return image


def _whole(values: Float32, *, halves_up: bool) -> Float32:
    found: Float32 = np.floor(values + np.float32(0.5)) if halves_up else np.rint(values)
    return found


def _bilinear(image: Float32, x: Float64, y: Float64) -> Float32:
    """Return the image (h, w, c) at places (H, W)."""
    left, top = np.floor(x), np.floor(y)
    across, down = (x - left).astype(np.float32)[..., None], (y - top).astype(np.float32)[..., None]
    columns = [np.clip(left + i, 0, image.shape[1] - 1).astype(np.intp) for i in (0, 1)]
    rows = [np.clip(top + i, 0, image.shape[0] - 1).astype(np.intp) for i in (0, 1)]
    upper, lower = (image[row, columns[0]] + across * (image[row, columns[1]] - image[row, columns[0]]) for row in rows)
    found: Float32 = upper + down * (lower - upper)
    return found


def _averaged(image: NDArray[Any], length: int, count: int, wanted: range, *, axis: int) -> Float32:
    """Of `count` equal spans that an axis of `length` pixels is cut into, the averages over those `wanted`."""
    span = length / count
    numbers = np.arange(wanted.start, wanted.stop)
    starts, ends = numbers * span, (numbers + 1) * span
    first = np.floor(starts).astype(np.intp)
    shape = [1, 1, 1]
    shape[axis] = len(wanted)
    total = np.zeros([len(wanted) if i == axis else side for i, side in enumerate(image.shape)], np.float32)
    for step in range(math.ceil(span) + 1):
        pixel = first + step
        share = np.clip(np.minimum(ends, pixel + 1) - np.maximum(starts, pixel), 0, None) / span
        picked = np.take(image, np.minimum(pixel, length - 1), axis=axis)
        total += picked * share.astype(np.float32).reshape(shape)
    return total
