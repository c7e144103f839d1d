"""Hundreds of bad photos, made here: what people, phones, attackers and broken disks hand in."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pillow_heif
import skimage.data
from PIL import Image

Files = Iterator[tuple[str, bytes]]

FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "tif": "TIFF", "avif": "AVIF", "heic": "HEIF"}
#: A word that must not come through: in EXIF, XMP, comments, thumbnails and behind the end.
SECRET = b"SECRET-48.8584N-2.2945E"


def corpus() -> dict[str, bytes]:
    """Every bad file by its key, always the same ones."""
    files: dict[str, bytes] = {}
    for family in (whole, truncated, flipped, misnamed, empty, bombs, shapes, depths, orientations, laden, polyglots):
        for name, data in family():
            key = f"{family.__name__}/{name}"
            assert key not in files, key
            files[key] = data
    return files


def face(side: int = 200) -> Image.Image:
    return Image.fromarray(skimage.data.astronaut()[:220, 110:330]).resize((side, side))


def saved(image: Image.Image, suffix: str, **options: Any) -> bytes:
    pillow_heif.register_heif_opener()
    buffer = io.BytesIO()
    image.save(buffer, FORMATS[suffix], **options)
    return buffer.getvalue()


def whole() -> Files:
    for suffix in FORMATS:
        yield f"face.{suffix}", saved(face(), suffix)


def truncated() -> Files:
    """Cut at every tenth, and one byte before the end."""
    for suffix in FORMATS:
        data = saved(face(), suffix)
        for tenth in range(1, 10):
            yield f"{tenth}.{suffix}", data[: len(data) * tenth // 10]
        yield f"last.{suffix}", data[:-1]


def flipped() -> Files:
    """One to eight bits turned, early ones in the headers and others anywhere."""
    random_ = random.Random(0)
    for suffix in FORMATS:
        data = saved(face(), suffix)
        for number in range(20):
            spoilt = bytearray(data)
            for _ in range(1 + number % 8):
                place = random_.randrange(min(len(data), 400) if number % 2 else len(data))
                spoilt[place] ^= 1 << random_.randrange(8)
            yield f"{number}.{suffix}", bytes(spoilt)


def misnamed() -> Files:
    for suffix in FORMATS:
        for other in FORMATS:
            if other != suffix:
                yield f"{suffix}.as.{other}", saved(face(), suffix)
    yield "text.jpg", b"This is no photo. " * 100
    yield "html.png", b"<html><script>alert(1)</script></html>"
    yield "gif.jpg", _bytes(lambda buffer: face().convert("P").save(buffer, "GIF"))
    yield "bmp.jpg", _bytes(lambda buffer: face().save(buffer, "BMP"))
    yield "svg.png", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    yield "ps.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) (r) file run"


def empty() -> Files:
    yield "nothing.jpg", b""
    for size in (1, 2, 3, 4, 8, 12, 16, 64, 4096):
        yield f"zeros-{size}.jpg", bytes(size)
        yield f"ones-{size}.png", b"\xff" * size
    for suffix, magic in {"jpg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n", "webp": b"RIFF\x10\0\0\0WEBP"}.items():
        yield f"magic-alone.{suffix}", magic


def bombs() -> Files:
    """Little in bytes, and much in pixels or in memory."""
    for side in (20_000, 65_535, 2**31 - 1):
        yield f"png-{side}.png", _png_header(side, side)
    yield "png-deflate.png", _png(30_000, 30_000, zlib.compress(bytes(10_000_000), 9))
    large, small = zlib.compress(bytes(10**8)), zlib.compress(bytes(8 * 25))
    yield "png-text.png", _png(8, 8, small, _chunk(b"zTXt", b"a\0\0" + large))
    yield "png-icc.png", _png(8, 8, small, _chunk(b"iCCP", b"a\0\0" + large))
    yield "webp.webp", saved(Image.new("RGB", (16_383, 16_383)), "webp", quality=1)
    yield "avif.avif", saved(Image.new("RGB", (12_000, 12_000)), "avif", quality=1, speed=10)
    yield "tiff.tif", _lying_tiff(200_000, 200_000)
    yield "tiff-strips.tif", _lying_tiff(60_000, 60_000)
    data = bytearray(saved(face(), "jpg"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", 65_500, 65_500)
    yield "jpeg-lies.jpg", bytes(data)


def shapes() -> Files:
    for width, height in ((1, 1), (1, 2), (2, 1), (7, 3), (1, 4000), (4000, 1), (65_000, 1), (1, 65_000), (65_000, 9)):
        for suffix in ("jpg", "png"):
            yield f"{width}x{height}.{suffix}", saved(Image.new("RGB", (width, height), (90, 60, 30)), suffix)


def depths() -> Files:
    """Modes that are not 8-bit RGB, and pictures with several frames."""
    deep = np.asarray(face().convert("L")).astype(np.uint16) * 257
    yield "16-bit.png", saved(Image.fromarray(deep), "png")
    yield "16-bit.tif", saved(Image.fromarray(deep), "tif")
    yield "float.tif", saved(Image.fromarray(np.asarray(face().convert("L")).astype(np.float32)), "tif")
    yield "int32.tif", saved(face().convert("I"), "tif")
    yield "cmyk.jpg", saved(face().convert("CMYK"), "jpg")
    yield "cmyk.tif", saved(face().convert("CMYK"), "tif")
    for mode in ("1", "L", "LA", "P", "PA", "RGBA"):
        for suffix in ("png", "webp", "tif"):
            try:
                yield f"{mode}.{suffix}", saved(face().convert(mode), suffix)
            except (OSError, ValueError):
                continue  # the format knows no such mode
    yield "transparent-palette.png", saved(face().convert("P"), "png", transparency=0)
    for suffix in ("png", "webp", "tif", "avif"):
        yield f"animated.{suffix}", saved(face(), suffix, save_all=True, append_images=[face().rotate(90)])


def orientations() -> Files:
    for value in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 255, 65_535):
        for suffix in ("jpg", "png", "webp", "tif"):
            yield f"{value}.{suffix}", saved(face(), suffix, exif=_exif({0x0112: value}))


def laden() -> Files:
    """Photos that carry more than their pixels: all of it has to stay behind."""
    thumbnail = saved(face(80), "jpg")
    yield "exif.jpg", saved(face(), "jpg", exif=secret_exif(thumbnail), comment=SECRET, xmp=_xmp())
    for suffix in ("png", "webp", "tif", "avif", "heic"):
        yield f"exif.{suffix}", saved(face(), suffix, exif=secret_exif(thumbnail))
    yield "broken-exif.jpg", saved(face(), "jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f" + SECRET)
    yield "looping-exif.jpg", saved(face(), "jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\x08\0\0\0" + SECRET)
    yield "huge-icc.jpg", saved(face(), "jpg", icc_profile=SECRET * 60_000)
    yield "wrong-icc.jpg", saved(face(), "jpg", icc_profile=SECRET)
    yield "motion.jpg", saved(face(), "jpg") + b"\0\0\0\x18ftypmp42" + SECRET * 100
    yield "mpo.jpg", _bytes(lambda buffer: face().save(buffer, "MPO", save_all=True, append_images=[face(150)]))
    heif = pillow_heif.from_pillow(face())
    heif.add_from_pillow(face(150))
    yield "two.heic", _bytes(lambda buffer: heif.save(buffer, quality=80))
    yield "thumbnail.heic", _bytes(lambda buffer: pillow_heif.from_pillow(face()).save(buffer, thumbnails=[64]))


def polyglots() -> Files:
    """Two kinds of file in one."""
    photo = saved(face(), "jpg")
    yield "jpeg-zip.jpg", photo + b"PK\x03\x04" + SECRET + bytes(200)
    yield "jpeg-html.jpg", photo + b"<script>alert(1)</script>" + SECRET
    yield "png-php.png", saved(face(), "png") + b"<?php system($_GET[0]);" + SECRET
    yield "pdf-jpeg.jpg", b"%PDF-1.4\n" + photo
    yield "jpeg-jpeg.jpg", photo + saved(face(150), "jpg")
    yield "gif-js.jpg", b"GIF89a/*" + photo + b"*/=1;"


def secret_exif(thumbnail: bytes) -> bytes:
    """EXIF with a place, a maker's note, a comment and a thumbnail of the same face."""
    exif = Image.Exif()
    exif[0x010E] = SECRET.decode()
    exif[0x8298] = SECRET.decode()
    exif.get_ifd(0x8769)[0x927C] = SECRET
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0" + SECRET
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 30.24), 3: "E", 4: (2.0, 17.0, 40.2), 27: SECRET})
    block = exif.tobytes()
    return block + thumbnail  # behind the directories, where cameras put it


def _exif(tags: dict[int, int]) -> bytes:
    """Short numbers by tag, written by hand: Pillow would correct some."""
    entries = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHIHH", t, 3, 1, v, 0) for t, v in tags.items())
    return b"Exif\0\0II*\0\x08\0\0\0" + entries + bytes(4)


def _xmp() -> bytes:
    return b'<?xpacket begin=""?><x:xmpmeta xmlns:x="adobe:ns:meta/"><a>' + SECRET + b"</a></x:xmpmeta><?xpacket end?>"


def _bytes(save: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    save(buffer)
    return buffer.getvalue()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png_header(width: int, height: int) -> bytes:
    return _png(width, height, zlib.compress(bytes(1000)))


def _png(width: int, height: int, pixels: bytes, more: bytes = b"") -> bytes:
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + more + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _lying_tiff(width: int, height: int) -> bytes:
    """A header for more pixels than it has."""
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 200), (277, 3, 1),
            (278, 4, height), (279, 4, 1000)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return (b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)).ljust(200, b"\0") + bytes(1000)
