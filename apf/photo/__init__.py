"""Photos in, photos out: JPEG, PNG, WebP, HEIC, AVIF and TIFF, each leaving in the format it came in.

    header = read_header(data)          # format and upright size; nothing is decoded
    photo = decode(data)                # photo.pixels: (H, W, 3) uint8 RGB, upright
    data = encode(photo, new_pixels)    # same format, same size, no metadata but the ICC profile

What leaves carries the pixels, the alpha channel, what says how colours are meant (written anew from its numbers, never
copied) and the EXIF tags that are asked for by name. Nothing else survives: no thumbnails, auxiliary images,
comments, XMP, maker notes, resolution or trailing video.

Importing this package sets three process-wide things in Pillow, once, because they cannot be set for one call:
its own pixel limit is off (`Limits` takes its place, and is checked first), its compressed text limit allows an ICC
profile of 16 MiB in a PNG, and its warnings about odd but readable metadata are silenced (`warnings.catch_warnings` is
not safe in threads).
"""

from __future__ import annotations

import warnings

from PIL import Image, PngImagePlugin

from apf.photo.decode import Photo, decode
from apf.photo.encode import encode
from apf.photo.header import Header, Limits, looks_like_photo, read_header
from apf.photo.metadata import check_metadata_names

__all__ = [
    "Header",
    "Limits",
    "Photo",
    "check_metadata_names",
    "decode",
    "encode",
    "looks_like_photo",
    "read_header",
]

Image.MAX_IMAGE_PIXELS = None
PngImagePlugin.MAX_TEXT_CHUNK = 16 * 2**20
warnings.filterwarnings("ignore", module=r"PIL\.")
