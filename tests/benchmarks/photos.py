"""Photos to measure with: so many megapixels, so many real faces, grain as a sensor has it, JPEG of quality 90.

The faces are InsightFace's t1.jpg's and scikit-image's astronaut's, on its coffee enlarged; the grain makes a file as
large as a camera's, of which decoding and encoding take their time. All come with installed packages.
"""

from __future__ import annotations

import io
import math
from functools import cache
from importlib import resources

import cv2
import numpy as np
from PIL import Image
from skimage.data import astronaut, coffee

from apf.detection.detector import Detector, load_detector
from apf.faces.alignment import Float32, UInt8, align, alignment

#: Height of a face's box, in photo heights, by how many there are.
FACE_HEIGHT = {1: 0.30, 5: 0.15, 20: 0.09}
#: Standard deviation of the grain, in levels; and the side of the square of it that is repeated.
GRAIN, GRAIN_SIDE = 5.0, 1024
#: Share of a face's cut-out that fades into the photo on each side.
FADE = 0.12


def jpeg(megapixels: float, faces: int, seed: int = 0) -> bytes:
    """A photo in 3:2 with this many faces, its sides in blocks of 16 as a camera's; another seed gives another photo.

    Args:
        faces: one of 0 and the keys of `FACE_HEIGHT`.
    """
    width, height = (16 * round(math.sqrt(megapixels * 1e6 * share) / 16) for share in (1.5, 1 / 1.5))
    pixels = cv2.resize(coffee(), (width, height), interpolation=cv2.INTER_CUBIC)
    random = np.random.default_rng([seed, faces, width])
    for number, (x, y) in enumerate(_middles(faces, width, len(pixels))):
        lay(_faces()[(number + seed) % len(_faces())], pixels, x, y, 2 * round(FACE_HEIGHT[faces] * len(pixels)))
    _add_grain(pixels, random)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def cutouts(detector: Detector, photo: UInt8) -> list[UInt8]:
    """Each face of a photo, with as much around it as is needed to look real: a square twice as high as the box."""
    found = []
    for face in detector.detect([photo])[0]:
        x1, y1, x2, y2 = face.box
        half = y2 - y1
        rows, columns = np.arange(-half, half) + (y1 + y2) / 2, np.arange(-half, half) + (x1 + x2) / 2
        inside = rows.clip(0, photo.shape[0] - 1).astype(int), columns.clip(0, photo.shape[1] - 1).astype(int)
        found.append(np.ascontiguousarray(photo[inside[0]][:, inside[1]]))
    return found


def six() -> UInt8:
    """InsightFace's t1.jpg: (H, W, 3) uint8 RGB with six faces."""
    with Image.open(str(resources.files("insightface") / "data/images/t1.jpg")) as image:
        return np.asarray(image.convert("RGB"))


def real_faces(count: int) -> list[Float32]:
    """Aligned crops (3, 112, 112) float32 in [0, 1] of six people, again and again."""
    detector = load_detector("centerface")
    faces = [
        align(photo, alignment(face.landmarks))
        for photo in cutouts(detector, six())
        for face in detector.detect([photo])[0][:1]
    ]
    return [faces[number % len(faces)] for number in range(count)]


@cache
def _faces() -> tuple[UInt8, ...]:
    detector = load_detector("centerface")
    return (*cutouts(detector, astronaut()), *cutouts(detector, six()))


def _middles(count: int, width: int, height: int) -> list[tuple[int, int]]:
    """Places on a grid, at most five in a row."""
    columns = min(count, 5)
    rows = math.ceil(count / 5)
    places = [(column + 0.5, row + 0.5) for row in range(rows) for column in range(columns)]
    return [(round(x * width / columns), round(y * height / rows)) for x, y in places]


def lay(face: UInt8, pixels: UInt8, x: int, y: int, side: int) -> None:
    """A cut-out of so many pixels around (x, y), fading into what is there."""
    at = np.minimum(np.arange(side), np.arange(side)[::-1]) / (FADE * side)
    ramp = at.clip(0, 1).astype(np.float32)
    mask = (ramp[:, None] * ramp)[..., None]
    left, top = x - side // 2, y - side // 2
    part = pixels[max(top, 0) : top + side, max(left, 0) : left + side]
    inside = np.s_[max(-top, 0) : max(-top, 0) + part.shape[0], max(-left, 0) : max(-left, 0) + part.shape[1]]
    laid = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA if side < len(face) else cv2.INTER_CUBIC)
    part[:] = np.rint(mask[inside] * laid[inside] + (1 - mask[inside]) * part)


def _add_grain(pixels: UInt8, random: np.random.Generator) -> None:
    grain = np.rint(random.normal(0, GRAIN, (GRAIN_SIDE, GRAIN_SIDE, 1))).astype(np.int16)
    for top in range(0, pixels.shape[0], GRAIN_SIDE):
        for left in range(0, pixels.shape[1], GRAIN_SIDE):
            part = pixels[top : top + GRAIN_SIDE, left : left + GRAIN_SIDE]
            part[:] = (part + grain[: part.shape[0], : part.shape[1]]).clip(0, 255)
