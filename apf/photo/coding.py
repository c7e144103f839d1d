"""Read how the source was coded, so that the output can be coded alike."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from PIL import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from apf.photo import containers, jpeg

_PREDICTOR = 317
LOSSLESS_TIFF = {"raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "zstd", "lzma"}
_DEFAULT_TIFF = "tiff_adobe_deflate"
CHROMAS = ("4:4:4", "4:2:2", "4:2:0", "4:0:0")

#: PNG chunks that say what the colours mean, each with its numbers, from which it is written anew. One of another size
#: counts for nothing, as in libpng.
PNG_COLOUR = {b"gAMA": ">I", b"cHRM": ">8I", b"sRGB": ">B", b"cICP": ">4B"}
#: Colour primaries and transfer characteristics that ITU-T H.273 has; 2 is "unspecified".
_PRIMARIES, _TRANSFERS = {1, *range(4, 13), 22}, {1, *range(4, 19)}


@dataclass(frozen=True)
class Coding:
    """The choices of the source's encoder, as far as its format has the choice."""

    #: Size of the compressed picture in the source; lossy WebP, HEIC and AVIF aim for it.
    source_bytes: int
    jpeg: jpeg.JpegCoding | None = None
    webp_lossless: bool = False
    #: HEIC and AVIF: "4:4:4", "4:2:2", "4:2:0", or "4:0:0" for one grey channel.
    chroma: str = "4:2:0"
    #: HEIC and AVIF without an ICC profile: colour primaries and transfer characteristics, as numbered by ITU-T H.273.
    primaries: tuple[int, int] | None = None
    tiff_compression: str = _DEFAULT_TIFF
    tiff_predictor: int = 1
    png_colour: tuple[tuple[bytes, bytes], ...] = ()


def read_coding(image: ImageFile.ImageFile, data: bytes) -> Coding:
    """Read how `data` was coded. `image` is opened and not loaded."""
    size = containers.coded_bytes(data, image.format or "")
    if isinstance(image, JpegImageFile):
        return Coding(size, jpeg=jpeg.read_coding(image))
    if isinstance(image, TiffImageFile):
        return _tiff_coding(image, size)
    if image.format == "PNG":
        return Coding(size, png_colour=_png_colour(data))
    if image.format == "WEBP":
        return Coding(size, webp_lossless=containers.webp_is_lossless(data))
    size -= len(image.info.get("exif") or b"") + len(image.info.get("xmp") or b"")
    if image.format == "HEIF":
        nclx = image.info.get("nclx_profile") or {}
        primaries = known_primaries(nclx.get("color_primaries"), nclx.get("transfer_characteristics"))
        chroma = {444: "4:4:4", 422: "4:2:2"}.get(image.info.get("chroma", 420), "4:2:0")
        return Coding(size, chroma=chroma, primaries=primaries)
    return Coding(size, chroma=_avif_chroma(data), primaries=_avif_primaries(data))


def _tiff_coding(image: TiffImageFile, size: int) -> Coding:
    compression = str(image.info.get("compression"))
    if compression not in LOSSLESS_TIFF:  # JPEG or fax inside a TIFF, or deflate under its old number
        compression = _DEFAULT_TIFF
    predictor = 2 if image.tag_v2.get(_PREDICTOR) == 2 else 1
    return Coding(size, tiff_compression=compression, tiff_predictor=predictor)


def _png_colour(data: bytes) -> tuple[tuple[bytes, bytes], ...]:
    found: dict[bytes, bytes] = {}
    for kind, body in containers.png_chunks(data):
        if kind == b"IDAT":  # none counts behind the pixels
            break
        form = PNG_COLOUR.get(kind)
        if form and len(body) == struct.calcsize(form):
            found.setdefault(kind, struct.pack(form, *struct.unpack(form, body)))
    return tuple(found.items())


def known_primaries(primaries: int | None, transfer: int | None) -> tuple[int, int] | None:
    """Return the two as numbers; None where H.273 does not have them."""
    if primaries is None or transfer is None or primaries not in _PRIMARIES or transfer not in _TRANSFERS:
        return None
    return int(primaries), int(transfer)


def _avif_primaries(data: bytes) -> tuple[int, int] | None:
    """As libavif takes them: from the primary item's own properties."""
    for kind, body in containers.primary_properties(data):
        if kind == b"colr" and bytes(body[:4]) == b"nclx" and len(body) >= 8:
            return known_primaries(int.from_bytes(body[4:6], "big"), int.from_bytes(body[6:8], "big"))
    return None


def _avif_chroma(data: bytes) -> str:
    """Return the chroma format of the primary item; where that is a grid of others, of the first coloured one."""
    found = containers.primary_properties(data), containers.item_properties(data)
    own, configs = ([body[2] for kind, body in some if kind == b"av1C" and len(body) > 2] for some in found)
    configs = own or configs
    if configs and all(byte & 0x10 for byte in configs):
        return "4:0:0"
    coloured = next((byte for byte in configs if not byte & 0x10), 0x0C)
    return {0x00: "4:4:4", 0x08: "4:2:2"}.get(coloured & 0x0C, "4:2:0")
