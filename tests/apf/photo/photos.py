"""Small photos made for the tests, and the parts that Pillow cannot make."""

from __future__ import annotations

import io
import struct
from functools import cache
from typing import Any

import numpy as np
from PIL import Image
from skimage.data import astronaut

import apf.photo  # noqa: F401  registers the HEIF plugin

FORMATS = ("JPEG", "PNG", "WEBP", "HEIF", "AVIF", "TIFF")


@cache
def portrait(width: int = 96, height: int = 64, mode: str = "RGB") -> Image.Image:
    """A real portrait, with a gradient for alpha where the mode has it."""
    image = Image.fromarray(astronaut()[:300, 80:380]).resize((width, height)).convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.linear_gradient("L").resize((width, height)))
    return image


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def reopen(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def cmyk_profile() -> bytes:
    """The smallest CMYK profile: a two-point lookup table where each ink takes its complement and K takes all."""
    corners = bytearray()
    for index in range(16):
        cyan, magenta, yellow, black = (index >> shift & 1 for shift in (3, 2, 1, 0))
        rgb = [(1 - ink) * (1 - black) for ink in (cyan, magenta, yellow)]
        light = 0.3 * rgb[0] + 0.6 * rgb[1] + 0.1 * rgb[2]
        a, b = 128 + 90 * (rgb[0] - rgb[1]), 128 + 45 * (rgb[0] + rgb[1] - 2 * rgb[2])
        corners += bytes([round(255 * light), min(255, max(0, round(a))), min(255, max(0, round(b)))])
    ramp = bytes(range(256))
    identity = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + ramp * 4 + bytes(corners) + ramp * 3
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    start = 128 + 4 + 2 * 12
    tags = struct.pack(">I", 2) + b"A2B0" + struct.pack(">II", start, len(table))
    tags += b"wtpt" + struct.pack(">II", start + len(table), len(white))
    body = tags + table + white
    header = struct.pack(">I4sI4s4s4s", 128 + len(body), b"lcms", 0x02100000, b"prtr", b"CMYK", b"Lab ")
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + body


def as_array(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)
