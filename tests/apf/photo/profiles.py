"""ICC profiles made for the tests, byte by byte, and places in HEIC and AVIF that Pillow cannot fill."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
from PIL import Image, ImageCms

D50 = (0.9642, 1.0, 0.8249)
SPACES = {
    "srgb": ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), 2.2),
    "p3": ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), 2.2),
    "adobe": ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), 2.19921875),
    "linear": ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), 1.0),
}


def xyz(values: Any) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def gamma_curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def sampled_curve(gamma: float, count: int = 1024) -> bytes:
    points = np.round(65535 * np.linspace(0, 1, count) ** gamma).astype(">u2")
    return b"curv\0\0\0\0" + struct.pack(">I", count) + points.tobytes()


def parametric_curve(gamma: float) -> bytes:
    return b"para\0\0\0\0" + struct.pack(">HH", 0, 0) + struct.pack(">i", round(gamma * 65536))


def primaries(name: str) -> list[np.ndarray]:
    """The XYZ of red, green and blue, adapted from D65 to D50."""

    def tristimulus(x: float, y: float) -> np.ndarray:
        return np.array([x / y, 1, (1 - x - y) / y])

    columns = np.stack([tristimulus(*xy) for xy in SPACES[name][:3]], 1)
    white = tristimulus(0.3127, 0.3290)
    columns = columns * np.linalg.solve(columns, white)
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    adapt = np.linalg.inv(bradford) @ np.diag((bradford @ D50) / (bradford @ white)) @ bradford
    return list((adapt @ columns).T)


def matrix_tags(name: str, curve: bytes | None = None) -> dict[bytes, bytes]:
    curve = curve or gamma_curve(SPACES[name][3])
    tags = {letter + b"XYZ": xyz(value) for letter, value in zip((b"r", b"g", b"b"), primaries(name), strict=True)}
    return tags | {letter + b"TRC": curve for letter in (b"r", b"g", b"b")}


def profile(
    tags: dict[bytes, bytes], *, space: bytes = b"RGB ", pcs: bytes = b"XYZ ", version: int = 2, gap: bytes = b""
) -> bytes:
    """A display profile of these tags; `gap` lies between each of them, and belongs to none."""
    said = b"made for a test\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(said)) + said + bytes(78),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": xyz(D50),
    } | tags
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, value in tags.items():
        table += name + struct.pack(">II", start + len(body), len(value))
        body += value + bytes(-len(value) % 4) + gap
    head = struct.pack(">I4xI4s4s4s12x4s24xI", start + len(body), version << 24, b"mntr", space, pcs, b"acsp", 0)
    return (
        (head + struct.pack(">3i", 63190, 65536, 54061)).ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body
    )


def matrix_profile(
    name: str, curve: bytes | None = None, *, version: int = 2, extra: Any = (), gap: bytes = b""
) -> bytes:
    return profile(matrix_tags(name, curve) | dict(extra), version=version, gap=gap)


def lab_grid(side: int) -> np.ndarray:
    """(side, side, side, 3) in [0, 1]: Lab of an RGB space a little unlike sRGB."""
    rgb = np.stack(np.meshgrid(*[np.linspace(0, 1, side)] * 3, indexing="ij"), -1) ** 2.1
    relative = rgb @ np.stack(primaries("p3")) / D50
    f = np.where(relative > 216 / 24389, np.cbrt(relative), (24389 / 27 * relative + 16) / 116)
    lab = np.stack([1.16 * f[..., 1] - 0.16, 5 * (f[..., 0] - f[..., 1]), 2 * (f[..., 1] - f[..., 2])], -1)
    return np.clip(lab * (1, 100 / 255, 100 / 255) + (0, 128 / 255, 128 / 255), 0, 1)


def table_tag(kind: bytes, grid: np.ndarray | None = None, behind: bytes = b"") -> bytes:
    """`mft1`, `mft2` or `mAB ` of a grid of whole numbers (side, side, side, 3)."""
    wide = kind != b"mft1"
    if grid is None:
        grid = np.round(lab_grid(9) * (65535 if wide else 255))
    side, numbers = len(grid), grid.astype(">u2" if wide else "u1").tobytes()
    identity = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    if kind == b"mft1":
        ramps = bytes(range(256)) * 3
        return b"mft1\0\0\0\0" + bytes([3, 3, side, 0]) + identity + ramps + numbers + ramps + behind
    if kind == b"mft2":
        ramps = struct.pack(">2H", 0, 65535) * 3
        head = b"mft2\0\0\0\0" + bytes([3, 3, side, 0]) + identity + struct.pack(">HH", 2, 2)
        return head + ramps + numbers + ramps + behind
    linear = (b"curv\0\0\0\0" + bytes(4)) * 3
    clut = bytes([side] * 3).ljust(16, b"\0") + bytes([2, 0, 0, 0]) + numbers
    clut += bytes(-len(clut) % 4) + behind + bytes(-len(behind) % 4)
    at = 32 + len(linear)
    return (
        b"mAB \0\0\0\0"
        + bytes([3, 3, 0, 0])
        + struct.pack(">5I", 32, 0, 0, at, at + len(clut))
        + linear
        + clut
        + linear
    )


def table_profile(kind: bytes, tag: bytes | None = None) -> bytes:
    version = 4 if kind == b"mAB " else 2
    return profile({b"A2B0": tag or table_tag(kind)}, pcs=b"Lab ", version=version)


def grey_profile(gamma: float = 2.2) -> bytes:
    return profile({b"kTRC": gamma_curve(gamma)}, space=b"GRAY")


def in_srgb(image: Image.Image, icc: bytes | None) -> np.ndarray:
    """The colours as a colour-managed reader shows them on an sRGB screen."""
    plain = image if image.mode in ("L", "RGB") else image.convert("RGB")
    if not icc:
        return np.asarray(plain.convert("RGB")).astype(int)
    source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    shown = ImageCms.profileToProfile(plain, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    return np.asarray(shown).astype(int)


def to_space(image: Image.Image, icc: bytes, mode: str = "RGB") -> Image.Image:
    target = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    return ImageCms.profileToProfile(image, ImageCms.createProfile("sRGB"), target, outputMode=mode)


def with_first_colr(data: bytes, primaries: int, transfer: int) -> bytes:
    """A HEIC or AVIF with one `colr` before all other properties, which no item has."""
    prop = struct.pack(">I4s4sHHHB", 19, b"colr", b"nclx", primaries, transfer, 9, 0x80)
    out = bytearray(data)
    meta = _box(out, b"meta", 0, len(out))
    iprp = _box(out, b"iprp", meta + 12, meta + _size(out, meta))
    ipco, ipma = (_box(out, kind, iprp + 8, iprp + _size(out, iprp)) for kind in (b"ipco", b"ipma"))
    at = ipma + 16
    for _ in range(int.from_bytes(out[ipma + 12 : at], "big")):
        at += 4 if out[ipma + 8] else 2
        many, at = out[at], at + 1
        for number in range(at, at + many):  # one byte each, as the encoders here write them
            out[number] += 1
        at += many
    iloc = _box(out, b"iloc", meta + 12, meta + _size(out, meta))
    _move_items(out, iloc, len(prop))
    for box in (meta, iprp, ipco):
        out[box : box + 4] = (_size(out, box) + len(prop)).to_bytes(4, "big")
    return bytes(out[: ipco + 8]) + prop + bytes(out[ipco + 8 :])


def _size(data: bytearray, box: int) -> int:
    return int.from_bytes(data[box : box + 4], "big")


def _box(data: bytearray, kind: bytes, start: int, end: int) -> int:
    while data[start + 4 : start + 8] != kind:
        start += _size(data, start)
        assert start < end, kind
    return start


def _move_items(data: bytearray, iloc: int, by: int) -> None:
    version, sizes, base_size = data[iloc + 8], data[iloc + 12], data[iloc + 13] >> 4
    offset, length, index = sizes >> 4, sizes & 15, data[iloc + 13] & 15 if version else 0
    at = iloc + 16
    for _ in range(int.from_bytes(data[iloc + 14 : at], "big")):
        at += 2
        in_file = not version or data[at + 1] & 15 == 0
        at += (2 if version else 0) + 2
        base = int.from_bytes(data[at : at + base_size], "big")
        if base and in_file:
            data[at : at + base_size] = (base + by).to_bytes(base_size, "big")
        at += base_size
        many, at = int.from_bytes(data[at : at + 2], "big"), at + 2
        for _ in range(many):
            at += index
            if in_file and not base:
                data[at : at + offset] = (int.from_bytes(data[at : at + offset], "big") + by).to_bytes(offset, "big")
            at += offset + length
