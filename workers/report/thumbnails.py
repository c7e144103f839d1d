"""Small JPEGs for the page."""

from __future__ import annotations

import io

import cv2
import numpy as np
from PIL import Image

from apf.faces.alignment import Float32, UInt8
from apf.photo import Photo

#: Long sides in pixels, and JPEG qualities: of the grid, and of the photo alone.
THUMB, THUMB_QUALITY = 480, 75
VIEW, VIEW_QUALITY = 1200, 82
#: Larger profiles (printers', hostile ones) cost more than they show.
MAX_PROFILE_BYTES = 4096


def thumb(pixels: UInt8, photo: Photo) -> bytes:
    """(H, W, 3) uint8 RGB in the colours of `photo`, as a JPEG for the grid."""
    return _jpeg(_flat(_reduced(pixels, THUMB), photo), THUMB_QUALITY, photo)


def view(pixels: UInt8, photo: Photo) -> bytes:
    """As `thumb`, to be looked at alone."""
    return _jpeg(_flat(_reduced(pixels, VIEW), photo), VIEW_QUALITY, photo)


def plain(pixels: UInt8) -> bytes:
    """Return a picture of numbers rather than colours: no profile, no alpha."""
    return _jpeg(_reduced(pixels, VIEW), VIEW_QUALITY)


def crop(face: Float32, photo: Photo) -> bytes:
    """(3, 112, 112) float32 in [0, 1], an aligned face."""
    pixels = np.rint(face.transpose(1, 2, 0) * 255).astype(np.uint8)
    return _jpeg(pixels, VIEW_QUALITY, photo)


def _reduced(pixels: UInt8, side: int) -> UInt8:
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def _flat(pixels: UInt8, photo: Photo) -> UInt8:
    """On white, where the photo lets through what is behind it."""
    if photo.alpha is None:
        return pixels
    height, width = pixels.shape[:2]
    alpha = cv2.resize(photo.alpha, (width, height), interpolation=cv2.INTER_AREA)[..., None] / np.float32(255)
    return np.asarray(np.rint(pixels * alpha + 255 * (1 - alpha)), np.uint8)


def _jpeg(pixels: UInt8, quality: int, photo: Photo | None = None) -> bytes:
    image = Image.fromarray(pixels)
    if photo and photo.single_channel:
        image = image.convert("L")  # its profile, if it has one, is for grey
    icc = photo.icc if photo and photo.icc and len(photo.icc) <= MAX_PROFILE_BYTES else None
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=quality, optimize=True, icc_profile=icc)
    return encoded.getvalue()
