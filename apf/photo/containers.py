"""Where things lie in PNG, WebP and ISO media (HEIC, AVIF) files. Walks over chunks; decodes no pixel.

Each walk ends quietly at the first chunk that does not fit: what is damaged is for the decoder to say.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

Chunk = tuple[bytes, memoryview]


def png_chunks(data: bytes) -> Iterator[Chunk]:
    """The (type, payload) of each chunk up to IEND."""
    view, at = memoryview(data), len(PNG_SIGNATURE)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        yield kind, view[at + 8 : at + 8 + length]
        if kind == b"IEND":
            return
        at += 12 + length


def riff_chunks(data: bytes) -> Iterator[Chunk]:
    """The (type, payload) of each top-level chunk of a WebP file."""
    view, at = memoryview(data), 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        yield kind, view[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def boxes(view: memoryview) -> Iterator[Chunk]:
    """The (type, payload) of each box of ISO media that lies side by side in `view`."""
    at = 0
    while at + 8 <= len(view):
        length, kind = struct.unpack_from(">I4s", view, at)
        head = 8
        if length == 1 and at + 16 <= len(view):
            (length,), head = struct.unpack_from(">Q", view, at + 8), 16
        elif length == 0:
            length = len(view) - at
        if length < head:
            return
        yield kind, view[at + head : at + length]
        at += length


def webp_canvas(data: bytes) -> tuple[int, int] | None:
    """Width and height from a WebP's first chunk; None where it holds none."""
    for kind, body in riff_chunks(data):
        if kind == b"VP8X" and len(body) >= 10:
            return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
        if kind == b"VP8L" and len(body) >= 5:
            bits = int.from_bytes(body[1:5], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        if kind == b"VP8 " and len(body) >= 10:
            width, height = struct.unpack_from("<HH", body, 6)
            return width & 0x3FFF, height & 0x3FFF
        return None
    return None


def webp_is_lossless(data: bytes) -> bool:
    return any(kind == b"VP8L" for kind, _ in riff_chunks(data))


def brands(data: bytes) -> list[bytes]:
    """The major brand of an ISO media file, then its compatible ones; empty where it has no `ftyp` box."""
    kind, body = next(boxes(memoryview(data)), (b"", memoryview(b"")))
    if kind != b"ftyp":
        return []
    return [bytes(body[at : at + 4]) for at in (0, *range(8, len(body), 4))]


def item_properties(data: bytes) -> list[Chunk]:
    """The properties (`ispe`, `colr`, `av1C`, ...) of all items of a HEIC or AVIF file, in file order."""
    found = boxes(memoryview(data))
    for step in (b"meta", b"iprp", b"ipco"):
        body = next((body for kind, body in found if kind == step), None)
        if body is None:
            return []
        # `meta` alone opens with a version and flags.
        found = boxes(body[4:] if step == b"meta" else body)
    return list(found)


def coded_bytes(data: bytes, kind_of_file: str) -> int:
    """Size in bytes of the compressed picture itself, as near as the container tells, metadata aside."""
    if kind_of_file == "WEBP":
        return sum(len(body) for kind, body in riff_chunks(data) if kind in (b"VP8 ", b"VP8L", b"ALPH"))
    if kind_of_file in ("HEIF", "AVIF"):
        return sum(len(body) for kind, body in boxes(memoryview(data)) if kind == b"mdat")
    return len(data)
