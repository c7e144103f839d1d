"""Walk the chunks of PNG, WebP and ISO media (HEIC, AVIF) files. Decodes no pixel.

Each walk ends quietly at the first chunk that does not fit: what is damaged is for the decoder to say.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

Chunk = tuple[bytes, memoryview]


def png_chunks(data: bytes) -> Iterator[Chunk]:
    """Yield the (type, payload) of each chunk up to IEND."""
    view, at = memoryview(data), len(PNG_SIGNATURE)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        yield kind, view[at + 8 : at + 8 + length]
        if kind == b"IEND":
            return
        at += 12 + length


def riff_chunks(data: bytes) -> Iterator[Chunk]:
    """Yield the (type, payload) of each top-level chunk of a WebP file."""
    view, at = memoryview(data), 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        yield kind, view[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def boxes(view: memoryview) -> Iterator[Chunk]:
    """Yield the (type, payload) of each box of ISO media that lies side by side in `view`."""
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
    """Return the major brand of an ISO media file, then its compatible ones; empty where it has no `ftyp` box."""
    kind, body = next(boxes(memoryview(data)), (b"", memoryview(b"")))
    if kind != b"ftyp":
        return []
    return [bytes(body[at : at + 4]) for at in (0, *range(8, len(body), 4))]


def item_properties(data: bytes) -> list[Chunk]:
    """Return the properties (`ispe`, `colr`, `av1C`, ...) of all items of a HEIC or AVIF file, in file order."""
    return _properties(_meta(data))[0]


def primary_properties(data: bytes) -> list[Chunk]:
    """Those of the item that is shown."""
    meta = _meta(data)
    properties, associations = _properties(meta)
    try:
        (primary,) = struct.unpack_from(">I" if meta[b"pitm"][0] else ">H", meta[b"pitm"], 4)
        wanted = _associated(associations, primary)
    except (struct.error, LookupError):
        return []
    return [properties[number - 1] for number in wanted if 0 < number <= len(properties)]


def _meta(data: bytes) -> dict[bytes, memoryview]:
    """Return the first box of each kind in `meta`."""
    body = next((body for kind, body in boxes(memoryview(data)) if kind == b"meta"), memoryview(b""))
    found: dict[bytes, memoryview] = {}
    for kind, inner in boxes(body[4:]):  # it opens with a version and flags
        found.setdefault(kind, inner)
    return found


def _properties(meta: dict[bytes, memoryview]) -> tuple[list[Chunk], list[memoryview]]:
    """All properties, and the boxes that say which item has which."""
    inner = list(boxes(meta.get(b"iprp", memoryview(b""))))
    properties = next((list(boxes(body)) for kind, body in inner if kind == b"ipco"), [])
    return properties, [body for kind, body in inner if kind == b"ipma"]


def _associated(associations: list[memoryview], item: int) -> list[int]:
    """Return the numbers, from 1, of an item's properties."""
    for body in associations:
        of_item, numbers = ">IB" if body[0] else ">HB", ("H", 0x7FFF) if body[3] & 1 else ("B", 0x7F)
        (count,), at = struct.unpack_from(">I", body, 4), 8
        for _ in range(count):
            found, many = struct.unpack_from(of_item, body, at)
            at += struct.calcsize(of_item)
            own = struct.unpack_from(f">{many}{numbers[0]}", body, at)
            if found == item:
                return [number & numbers[1] for number in own]
            at += struct.calcsize(f">{many}{numbers[0]}")
    return []


def coded_bytes(data: bytes, kind_of_file: str) -> int:
    """Size in bytes of the compressed picture itself, as near as the container tells, metadata aside."""
    if kind_of_file == "WEBP":
        return sum(len(body) for kind, body in riff_chunks(data) if kind in (b"VP8 ", b"VP8L", b"ALPH"))
    if kind_of_file in ("HEIF", "AVIF"):
        return sum(len(body) for kind, body in boxes(memoryview(data)) if kind == b"mdat")
    return len(data)
