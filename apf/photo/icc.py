"""ICC profiles, written anew from the numbers that colour needs, so that nothing else comes through with them.

Taken are profiles for RGB or grey that go by curves and a matrix, or by tables (`A2B0` to `A2B2`). Each tag is read by
its own type, bounded, and looked at: curves rise or fall, tables are smooth. What could be any bytes is refused.
"""

from __future__ import annotations

import math
import struct
from functools import cache

import numpy as np
from numpy.typing import NDArray

_D50 = struct.pack(">3i", 63190, 65536, 54061)
_COLOURS = ("r", "g", "b")
_TABLES = (b"A2B0", b"A2B1", b"A2B2")

_MAX_CURVE, _MAX_GRID, _MAX_TABLE = 4096, 2**21, 2**22  # points of a curve, numbers of a grid, bytes of a table
_PARAMETERS = (1, 3, 4, 5, 7)  # of each function type of `para`

#: Second differences of a grid, as a share of its range, on average over so many numbers. Of real ones they are below
#: 0.1; of a JPEG's bytes, as of noise, over 0.4.
_ROUGH, _STRETCH = 0.25, 256

#: Descriptions that are kept, because people and programs know spaces by them; any other says nothing but the space.
_KNOWN = (
    *("sRGB", "sRGB IEC61966-2.1", "sRGB built-in", "Display P3", "Adobe RGB (1998)"),
    *(
        "Compatible with Adobe RGB (1998)",
        "Apple RGB",
        "eciRGB v2",
        "ProPhoto RGB",
        "ROMM RGB",
        "Rec. 709",
        "Rec. 2020",
    ),
    *("Rec. 2020", "Rec. ITU-R BT.2020-1", "Gray Gamma 2.2", "Gray Gamma 1.8", "Dot Gain 20%", "Generic RGB Profile"),
)


class _Refused(Exception):
    """Raised where a profile is not one that is written anew."""


def rebuilt(profile: bytes) -> bytes | None:
    """Return the same colours as a profile of our own writing; None where it is of another kind, damaged or
    suspicious.
    """
    try:
        return _rebuilt(profile)
    except (_Refused, struct.error, IndexError, ValueError):
        return None


def is_own(profile: bytes) -> bool:
    """Return whether it is a profile as `rebuilt` or `adobe_rgb` writes it: rebuilt once more it stays as it is."""
    return profile in (adobe_rgb(), rebuilt(profile))


@cache
def adobe_rgb() -> bytes:
    """Return a profile for Adobe RGB (1998), for photos that say so without one."""
    primaries = (0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)
    tags = {b"wtpt": _xyz_tag(struct.pack(">3i", *_fixed(0.95045, 1.0, 1.08905)))}
    for letter, xyz in zip(_COLOURS, primaries, strict=True):
        tags[letter.encode() + b"XYZ"] = _xyz_tag(struct.pack(">3i", *_fixed(*xyz)))
        tags[letter.encode() + b"TRC"] = b"curv" + bytes(4) + struct.pack(">IH", 1, 0x0233)
    return _written(2, b"RGB ", b"XYZ ", 0, "Compatible with Adobe RGB (1998)", tags)


def _rebuilt(profile: bytes) -> bytes:
    version, device, space, pcs = profile[8], profile[12:16], profile[16:20], profile[20:24]
    if version not in (2, 4) or device not in (b"mntr", b"scnr", b"prtr", b"spac"):
        raise _Refused
    if space not in (b"RGB ", b"GRAY") or pcs not in (b"XYZ ", b"Lab "):
        raise _Refused
    source = _read_table(profile)
    wanted = [letter + kind for kind in ("XYZ", "TRC") for letter in _COLOURS] if space == b"RGB " else ["kTRC"]
    tags: dict[bytes, bytes] = {}
    for name in wanted:
        if (tag := source.get(name.encode())) is not None:
            tags[name.encode()] = _xyz(tag) if name.endswith("XYZ") else _curve(tag)[0]
    shaped = len(tags) == len(wanted) and (pcs == b"XYZ " or space == b"GRAY")
    if not shaped:
        tags = {}
    tags |= {table: _table(source[table], 3 if space == b"RGB " else 1) for table in _TABLES if table in source}
    if not tags:
        raise _Refused
    for other, read in ((b"wtpt", _xyz), (b"chad", _chad), (b"cicp", _cicp)):
        if other in source:
            tags[other] = read(source[other])
    intent = int.from_bytes(profile[64:68], "big")
    said = _description(source.get(b"desc", b"")) or ("RGB" if space == b"RGB " else "Grey")
    return _written(version, space, pcs, intent if intent <= 3 else 0, said, tags)


def _read_table(profile: bytes) -> dict[bytes, bytes]:
    (count,) = struct.unpack_from(">I", profile, 128)
    found: dict[bytes, bytes] = {}
    for number in range(min(count, 100)):
        name, at, size = struct.unpack_from(">4sII", profile, 132 + 12 * number)
        if at + size <= len(profile):
            found.setdefault(name, profile[at : at + size])
    return found


def _written(version: int, space: bytes, pcs: bytes, intent: int, name: str, tags: dict[bytes, bytes]) -> bytes:
    """Return a profile of these tags, with a description; equal tags share their bytes."""
    text = _text_v2 if version == 2 else _text_v4
    tags = {b"desc": text(b"desc", name), b"cprt": text(b"text", "No copyright"), b"wtpt": _xyz_tag(_D50)} | tags
    device = b"mntr" if tags.keys() & {b"rTRC", b"kTRC"} else b"scnr"
    table, body, places = struct.pack(">I", len(tags)), b"", dict[bytes, int]()
    start = 128 + 4 + 12 * len(tags)
    for tag, value in tags.items():
        if value not in places:
            places[value] = start + len(body)
            body += value + bytes(-len(value) % 4)
        table += tag + struct.pack(">II", places[value], len(value))
    head = struct.pack(">I4xI4s4s4s12x4s24xI", start + len(body), 0x02400000 if version == 2 else 0x04400000,
                       device, space, pcs, b"acsp", intent)  # fmt: skip
    return (head + _D50).ljust(128, b"\0") + table + body


def _text_v2(kind: bytes, text: str) -> bytes:
    said = text.encode("ascii") + b"\0"
    if kind == b"text":
        return b"text" + bytes(4) + said
    return b"desc" + bytes(4) + struct.pack(">I", len(said)) + said + bytes(8 + 3 + 67)


def _text_v4(_kind: bytes, text: str) -> bytes:
    said = text.encode("utf-16-be")
    return b"mluc" + bytes(4) + struct.pack(">II4sII", 1, 12, b"enUS", len(said), 28) + said


def _description(tag: bytes) -> str | None:
    """Return what a profile calls itself, if that is known."""
    said = ""
    if tag[:4] == b"desc" and len(tag) >= 12:
        said = tag[12 : 12 + int.from_bytes(tag[8:12], "big")].decode("latin-1")
    if tag[:4] == b"mluc" and len(tag) >= 28:
        size, at = struct.unpack_from(">II", tag, 20)
        said = tag[at : at + size].decode("utf-16-be", "replace")
    said = said.rstrip("\0")
    return said if said in _KNOWN else None


def _fixed(*values: float) -> list[int]:
    return [round(value * 65536) for value in values]


def _xyz_tag(value: bytes) -> bytes:
    return b"XYZ " + bytes(4) + value


def _numbers(tag: bytes, kind: bytes, size: int) -> bytes:
    if tag[:4] != kind or len(tag) < 8 + size:
        raise _Refused
    return kind + bytes(4) + tag[8 : 8 + size]


def _xyz(tag: bytes) -> bytes:
    return _numbers(tag, b"XYZ ", 12)


def _chad(tag: bytes) -> bytes:
    return _numbers(tag, b"sf32", 36)


def _cicp(tag: bytes) -> bytes:
    return _numbers(tag, b"cicp", 4)


def _curve(tag: bytes) -> tuple[bytes, int]:
    """Return a curve written anew, and the size that it had."""
    if tag[:4] == b"para":
        (kind,) = struct.unpack_from(">H", tag, 8)
        size = 12 + 4 * _PARAMETERS[kind]
        if len(tag) < size:
            raise _Refused
        return b"para" + bytes(4) + struct.pack(">H2x", kind) + tag[12:size], size
    (count,) = struct.unpack_from(">I", tag, 8)
    if tag[:4] != b"curv" or count > _MAX_CURVE:
        raise _Refused
    points = np.frombuffer(tag, ">u2", count, 12)
    _check_curves(points[None])
    return b"curv" + bytes(4) + struct.pack(">I", count) + points.tobytes(), 12 + 2 * count


def _check_curves(curves: NDArray[np.integer]) -> None:
    """(n, points): each rises or falls all the way."""
    steps = np.diff(curves.astype(np.int32))
    if not ((steps >= 0).all(1) | (steps <= 0).all(1)).all():
        raise _Refused


def _grid(data: bytes, sides: tuple[int, ...], outputs: int, width: int, at: int) -> bytes:
    """Return the numbers of a table, one or two bytes wide. Of two bytes the last four bits are no colour that 8 bits
    show.
    """
    count = math.prod(sides) * outputs
    if min(sides) < 2 or count > _MAX_GRID:
        raise _Refused
    values = np.frombuffer(data, f">u{width}", count, at)
    if width == 2:
        values = values & 0xFFF0 | values >> 12
    bend = np.abs(np.diff(values.reshape(*sides, outputs).astype(np.float32) / (256**width - 1), 2, axis=-2)).ravel()
    if len(bend) and max(part.mean() for part in np.array_split(bend, -(-len(bend) // _STRETCH))) > _ROUGH:
        raise _Refused
    return values.astype(f">u{width}").tobytes()


def _table(tag: bytes, inputs: int) -> bytes:
    if len(tag) > _MAX_TABLE or len(tag) < 32 or tag[8:10] != bytes([inputs, 3]):
        raise _Refused
    if tag[:4] == b"mAB ":
        return _a_to_b(tag, inputs)
    if tag[:4] not in (b"mft1", b"mft2"):
        raise _Refused
    width = 1 if tag[:4] == b"mft1" else 2
    before, after = struct.unpack_from(">HH", tag, 48) if width == 2 else (256, 256)
    if not (2 <= before <= _MAX_CURVE and 2 <= after <= _MAX_CURVE):
        raise _Refused
    start = 52 if width == 2 else 48
    sides = (tag[10],) * inputs
    first = np.frombuffer(tag, f">u{width}", inputs * before, start).reshape(inputs, before)
    at = start + first.nbytes
    grid = _grid(tag, sides, 3, width, at)
    last = np.frombuffer(tag, f">u{width}", 3 * after, at + len(grid)).reshape(3, after)
    _check_curves(first)
    _check_curves(last)
    counts = struct.pack(">HH", before, after) if width == 2 else b""
    head = tag[:4] + bytes(4) + tag[8:11] + b"\0" + tag[12:48] + counts
    return head + first.tobytes() + grid + last.tobytes()


def _a_to_b(tag: bytes, inputs: int) -> bytes:
    """`lutAToBType`: curves A, a grid, curves M, a matrix, curves B; all but the last may be missing."""
    b, matrix, m, grid, a = struct.unpack_from(">5I", tag, 12)
    middle = tag[matrix : matrix + 48] if matrix else b""
    parts = [
        _curves(tag, b, 3),
        middle,
        _curves(tag, m, 3),
        _wide_grid(tag, grid, inputs),
        _curves(tag, a, inputs),
    ]
    places = [32 + sum(map(len, parts[:number])) if part else 0 for number, part in enumerate(parts)]
    if not b or (matrix and len(middle) < 48) or bool(grid) != bool(a) or bool(matrix) != bool(m):
        raise _Refused
    if not grid and inputs != 3:
        raise _Refused
    return b"mAB " + bytes(4) + bytes([inputs, 3, 0, 0]) + struct.pack(">5I", *places) + b"".join(parts)


def _curves(tag: bytes, at: int, count: int) -> bytes:
    if not at:
        return b""
    found = b""
    for _ in range(count):
        curve, size = _curve(tag[at:])
        found += curve + bytes(-len(curve) % 4)
        at += size + -size % 4
    return found


def _wide_grid(tag: bytes, at: int, inputs: int) -> bytes:
    if not at:
        return b""
    sides, width = tuple(tag[at : at + inputs]), tag[at + 16]
    if width not in (1, 2):
        raise _Refused
    values = _grid(tag, sides, 3, width, at + 20)
    return bytes(sides).ljust(16, b"\0") + bytes([width, 0, 0, 0]) + values + bytes(-len(values) % 4)
