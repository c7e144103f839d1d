"""Upright pixels back to a file of the source's own kind. The same photo and pixels always give the same bytes."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from apf.errors import PhotoTooLarge, UnsupportedPhoto
from apf.photo import containers, jpeg
from apf.photo.decode import Photo, Pixels
from apf.photo.exif import into_tiff, read_tags
from apf.photo.header import Format

# Fixed, because the number of threads decides how an AVIF is cut into tiles, and so its bytes.
_AVIF_THREADS = 4
_AVIF_SPEED = 8
# x265 at its other presets takes four to seven times as long for a tenth of the size.
_HEIF_PRESET = "ultrafast"
_PREDICTOR = 317


@dataclass(frozen=True)
class _QualityRange:
    """Where to look for the quality whose file is as large as the source."""

    start: int
    #: Never coarser than this: a portrait then has the PSNR that a JPEG has at quality 75 (34 dB).
    floor: int
    ceiling: int
    #: Relative growth of the file per step of quality, about `start`.
    growth: float
    trials: int


_WEBP = _QualityRange(start=82, floor=65, ceiling=98, growth=0.05, trials=3)
_AVIF = _QualityRange(start=75, floor=56, ceiling=98, growth=0.045, trials=2)
_HEIF = _QualityRange(start=52, floor=38, ceiling=98, growth=0.055, trials=2)
_CLOSE_ENOUGH = 0.08  # of the source's size


def encode(photo: Photo, pixels: Pixels | None = None, *, jpeg_floor_quality: int = 75) -> bytes:
    """Return a file of the photo's own format with `pixels`, or with the photo's own where None.

    Kept are alpha, the ICC profile, the EXIF tags that `decode` was asked to keep, and the source's way of coding: a
    JPEG's tables (never coarser than the IJG tables of `jpeg_floor_quality`), sampling and progression, a TIFF's
    compression, WebP's losslessness. Lossy WebP, HEIC and AVIF do not tell their quality; the one is searched that
    gives about the source's size.

    Args:
        pixels: (H, W, 3) uint8 RGB, the size of the photo; three equal channels where the photo stores one.

    Raises:
        ValueError: `pixels` are not of that form.
        UnsupportedPhoto: the encoder refuses the photo.
    """
    image = _image(photo, photo.pixels if pixels is None else pixels)
    kind = photo.header.format
    try:
        if kind == "JPEG":
            return _encode_jpeg(image, photo, jpeg_floor_quality)
        return _ENCODERS[kind](image, photo)
    except MemoryError as error:
        raise PhotoTooLarge(
            f"encoding the {kind} needs more memory than there is: scale it down, or give the process more"
        ) from error
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise UnsupportedPhoto(f"the photo cannot be written as {kind} again: {error}") from error


def _image(photo: Photo, pixels: Pixels) -> Image.Image:
    """Return the picture in mode L, LA, RGB or RGBA."""
    expected = (photo.header.height, photo.header.width, 3)
    if pixels.shape != expected or pixels.dtype != np.uint8:
        raise ValueError(f"pixels are {pixels.dtype} of shape {pixels.shape}: give uint8 of shape {expected}")
    if photo.single_channel:
        grey = pixels[..., 0]
        if not (np.array_equal(grey, pixels[..., 1]) and np.array_equal(grey, pixels[..., 2])):
            raise ValueError(
                "the photo stores one grey channel, but the pixels are coloured: give three equal channels"
            )
        image = Image.fromarray(np.ascontiguousarray(grey))
    else:
        image = Image.fromarray(np.ascontiguousarray(pixels))
    if photo.alpha is not None:
        image.putalpha(Image.fromarray(photo.alpha))
    return image


def _save(image: Image.Image, kind: Format, photo: Photo, **options: Any) -> bytes:
    if photo.icc is not None:
        options["icc_profile"] = photo.icc
    if photo.exif is not None:
        options["exif"] = photo.exif
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _encode_jpeg(image: Image.Image, photo: Photo, floor_quality: int) -> bytes:
    coding = photo.coding.jpeg
    if coding is None:
        raise TypeError("a JPEG photo without its coding: take photos from decode()")
    tables = jpeg.tables_for(coding, grey=image.mode == "L", floor_quality=floor_quality)
    save = partial(_save, image, "JPEG", photo, qtables=tables, subsampling=coding.subsampling)
    try:
        return save(progressive=coding.progressive, optimize=True)
    except OSError:
        # Pillow makes both in one buffer of two bytes a pixel, which a very dense JPEG outgrows.
        return save()


def _encode_png(image: Image.Image, photo: Photo) -> bytes:
    info = PngInfo()
    for kind, body in photo.coding.png_colour:
        if kind == b"cICP" or photo.icc is None:  # a profile says more than the other three
            info.add(kind, body)
    return _save(image, "PNG", photo, pnginfo=info)


def _encode_tiff(image: Image.Image, photo: Photo) -> bytes:
    coding, options = photo.coding, {}
    if coding.tiff_predictor != 1 and coding.tiff_compression in ("tiff_lzw", "tiff_adobe_deflate", "zstd"):
        options[_PREDICTOR] = coding.tiff_predictor
    # Pillow changes some kinds of tag, and libtiff refuses others.
    data = _save(image, "TIFF", replace(photo, exif=None), tiffinfo=options, compression=coding.tiff_compression)
    return data if photo.exif is None else into_tiff(data, read_tags(photo.exif))


def _encode_webp(image: Image.Image, photo: Photo) -> bytes:
    # `exact` keeps the colours under transparent pixels.
    if photo.coding.webp_lossless:
        return _save(image, "WEBP", photo, lossless=True, exact=True)
    return _as_large_as_source(lambda quality: _save(image, "WEBP", photo, quality=quality, exact=True), photo, _WEBP)


def _encode_heif(image: Image.Image, photo: Photo) -> bytes:
    colour: dict[str, int] = {}
    if photo.icc is None and photo.coding.primaries is not None:
        primaries, transfer = photo.coding.primaries
        # The matrix and range are of our own encoding, not of the source's.
        colour = {"color_primaries": primaries, "transfer_characteristics": transfer}
        colour |= {"matrix_coefficients": 6, "full_range_flag": 1}

    def save(quality: int) -> bytes:
        params = {"preset": _HEIF_PRESET}
        return _save(
            image, "HEIF", photo, quality=quality, subsampling=photo.coding.chroma, enc_params=params, **colour
        )

    return _as_large_as_source(save, photo, _HEIF)


def _encode_avif(image: Image.Image, photo: Photo) -> bytes:
    chroma = "4:0:0" if photo.single_channel else photo.coding.chroma

    def save(quality: int) -> bytes:
        data = _save(
            image, "AVIF", photo, quality=quality, subsampling=chroma, speed=_AVIF_SPEED, max_threads=_AVIF_THREADS
        )
        return data if photo.icc is not None else _with_primaries(data, photo.coding.primaries)

    return _as_large_as_source(save, photo, _AVIF)


def _with_primaries(data: bytes, primaries: tuple[int, int] | None) -> bytes:
    """Return the AVIF with its colours declared to be of these primaries and transfer; Pillow always declares sRGB."""
    at = data.find(b"colrnclx")
    if primaries is None or at < 0:
        return data
    declared = b"".join(number.to_bytes(2, "big") for number in primaries)
    return data[: at + 8] + declared + data[at + 12 :]


def _as_large_as_source(save: Callable[[int], bytes], photo: Photo, search: _QualityRange) -> bytes:
    """Encode at up to `search.trials` qualities and return the file whose picture comes nearest the source's size.

    The size of a file grows about exponentially with quality, so each step is along that line; from the second trial
    on along the line through the last two. The time of a photo stays bounded, and nothing is random.
    """
    target = math.log(max(photo.coding.source_bytes, 1))
    tried: dict[int, tuple[float, bytes]] = {}
    quality, growth = search.start, search.growth
    for _ in range(search.trials):
        data = save(quality)
        miss = target - math.log(max(containers.coded_bytes(data, photo.header.format), 1))
        growth = _growth(tried, quality, miss) or growth
        tried[quality] = miss, data
        if abs(miss) < _CLOSE_ENOUGH:
            break
        quality = min(max(quality + round(miss / growth), search.floor), search.ceiling)
        if quality in tried:
            break
    return min(tried.values(), key=lambda trial: abs(trial[0]))[1]


def _growth(tried: dict[int, tuple[float, bytes]], quality: int, miss: float) -> float | None:
    if not tried:
        return None
    before, (miss_before, _) = list(tried.items())[-1]
    growth = (miss_before - miss) / (quality - before)
    return growth if growth > 0 else None


_ENCODERS: dict[Format, Callable[[Image.Image, Photo], bytes]] = {
    "PNG": _encode_png,
    "TIFF": _encode_tiff,
    "WEBP": _encode_webp,
    "HEIF": _encode_heif,
    "AVIF": _encode_avif,
}
