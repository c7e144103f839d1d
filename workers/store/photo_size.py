"""Read a photo's size in pixels from its first bytes, without an image library: of JPEG, PNG and WebP."""

from __future__ import annotations

import struct

#: A JPEG's size comes after its EXIF data and thumbnail, and its colour profile.
FIRST_BYTES = 64 * 1024
#: Markers that begin a frame: all that hold sizes but DHT, JPG and DAC.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def pixels_in(data: bytes) -> int | None:
    """Return how many pixels a photo has; None where these bytes do not say so."""
    try:
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            width, height = struct.unpack_from(">II", data, 16)
            return int(width * height)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
    except (struct.error, IndexError):
        pass
    return None


def _jpeg(data: bytes) -> int | None:
    at = 2
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return int(width * height)
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return None


def _webp(data: bytes) -> int | None:
    if len(data) < 30:
        return None
    match data[12:16]:
        case b"VP8X":
            width = int.from_bytes(data[24:27], "little") + 1
            return width * (int.from_bytes(data[27:30], "little") + 1)
        case b"VP8 ":
            width, height = struct.unpack_from("<HH", data, 26)
            return int((width & 0x3FFF) * (height & 0x3FFF))
        case b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            return ((bits & 0x3FFF) + 1) * ((bits >> 14 & 0x3FFF) + 1)
    return None
