"""A photo brought to where its face has a given size."""

from __future__ import annotations

import io

import cv2
import numpy as np
from PIL import Image

from apf.faces.alignment import Box, UInt8
from apf.photo import Photo, decode
from apf.research.evaluate.whole_photos.boxes import box_side, scaled

#: A photo that would get larger than this is first cut to the face and what lies around it.
MAX_PIXELS = 3_000_000
#: How much of a cut photo is left on each side of the face, in sides of its box.
SURROUNDINGS = 0.5

#: Of the JPEG that a resized photo is before it is protected, with Pillow's default 4:2:0 chroma.
SOURCE_QUALITY = 90


def resized_to(pixels: UInt8, box: Box, size: int) -> tuple[UInt8, Box, bool]:
    """Return the photo with this face brought to a size: by area averaging to a smaller one, bicubic to a larger.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        box: of the face, in photo pixels.
        size: the geometric mean of the box's new width and height, in pixels.

    Returns:
        (h, w, 3) uint8 RGB, the box in it, and whether the photo was enlarged. What would have more than `MAX_PIXELS`
        is cut to the face's surroundings.
    """
    factor = size / box_side(box)
    if pixels.shape[0] * pixels.shape[1] * factor**2 > MAX_PIXELS:
        pixels, box = _surroundings(pixels, box)
    height, width = (max(1, round(side * factor)) for side in pixels.shape[:2])
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    resized = np.asarray(cv2.resize(pixels, (width, height), interpolation=how), np.uint8)
    return resized, scaled(box, factor), factor > 1


def as_jpeg(pixels: UInt8) -> Photo:
    """Return the pixels as a camera would hand them over, so that what is published is a JPEG too."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=SOURCE_QUALITY)
    return decode(buffer.getvalue())


def _surroundings(pixels: UInt8, box: Box) -> tuple[UInt8, Box]:
    margin = SURROUNDINGS * box_side(box)
    left, top = max(0, int(box[0] - margin)), max(0, int(box[1] - margin))
    cut = pixels[top : int(box[3] + margin) + 1, left : int(box[2] + margin) + 1]
    return np.ascontiguousarray(cut), (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
