"""Bytes to upright 8-bit pixels, with all that `encode` needs to give the same kind of file back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from apf.errors import CorruptPhoto
from apf.faces.resampling import turned
from apf.photo.coding import Coding, read_coding
from apf.photo.colour import real_profile, to_8_bit, with_own_profile
from apf.photo.exif import Tags
from apf.photo.header import Header, Limits, Opened, decoder_errors, open_photo
from apf.photo.icc import adobe_rgb, rebuilt
from apf.photo.metadata import check_metadata_names, is_adobe_rgb, kept_exif, read_raw
from apf.photo.turbo import decode_jpeg

Pixels = npt.NDArray[np.uint8]

_GREY_PROBE_STEP = 16


@dataclass(frozen=True, eq=False)
class Photo:
    """A decoded photo."""

    #: (H, W, 3) uint8 RGB, upright, contiguous.
    pixels: Pixels
    #: The three channels are equal everywhere, also where the file stores three.
    grey: bool
    header: Header
    #: (H, W) uint8, 255 is opaque; None where the photo has no alpha channel.
    alpha: Pixels | None
    #: The ICC profile that the colours follow, of our own writing; None means sRGB, or what `coding` says.
    icc: bytes | None
    #: An EXIF block of the tags that were asked for; None where there are none.
    exif: bytes | None
    #: The file stores one grey channel, and so does what is encoded from it. Implies `grey`.
    single_channel: bool
    coding: Coding
    #: On what was to be kept and could not be, a sentence each, for people.
    notes: tuple[str, ...] = ()


def decode(data: bytes, limits: Limits | None = None, keep_metadata: tuple[str, ...] = ()) -> Photo:
    """Decode a photo to upright pixels. `keep_metadata` names the EXIF tags that `encode` writes back.

    Raises:
        CorruptPhoto: the bytes are truncated, damaged or no picture.
        UnsupportedPhoto: a picture of a kind that we refuse, with the reason.
        PhotoTooLarge: over the limit in bytes or pixels; checked before decoding.
        ValueError: `keep_metadata` names an unknown or forbidden tag.
    """
    check_metadata_names(keep_metadata)
    opened = open_photo(data, limits or Limits())
    kind = opened.header.format
    with decoder_errors(kind, "its pixels cannot be decoded"):
        coding = read_coding(opened.image, data)
        tags = read_raw(opened.image, data)
        exif, notes = kept_exif(tags, keep_metadata)
        decoded = _by_turbo(opened, data) or _by_pillow(opened)
    if decoded.pixels.shape[:2] != (opened.header.height, opened.header.width):
        raise CorruptPhoto(
            f"{kind} photo, its header says {opened.header.width} x {opened.header.height}, "
            f"its pixels are {decoded.pixels.shape[1]} x {decoded.pixels.shape[0]}"
        )
    single_channel = decoded.single_channel
    if kind == "AVIF" and coding.chroma == "4:0:0":  # Pillow gives grey with alpha as RGBA
        single_channel = _is_grey(decoded.pixels)
    return Photo(
        pixels=decoded.pixels,
        grey=single_channel or _is_grey(decoded.pixels),
        header=opened.header,
        alpha=decoded.alpha,
        icc=decoded.icc or (adobe_rgb() if _by_camera(kind, single_channel, tags) else None),
        exif=exif,
        single_channel=single_channel,
        coding=coding,
        notes=notes,
    )


def _by_camera(kind: str, single_channel: bool, tags: Tags) -> bool:
    """Return whether the colours are Adobe RGB by the camera's word alone; other formats have their own places to say
    so.
    """
    return kind in ("JPEG", "TIFF", "WEBP") and not single_channel and is_adobe_rgb(tags)


@dataclass(frozen=True, eq=False)
class _Decoded:
    """As in `Photo`."""

    pixels: Pixels
    alpha: Pixels | None
    icc: bytes | None
    single_channel: bool


def _by_turbo(opened: Opened, data: bytes) -> _Decoded | None:
    profile = real_profile(opened.image.info.get("icc_profile"))
    own = profile and rebuilt(profile)
    if profile and not own:  # Pillow's pictures are what littleCMS takes
        return None
    pixels = decode_jpeg(opened.image, data)
    if pixels is None:
        return None
    return _Decoded(turned(pixels, opened.turn), None, own, single_channel=False)


def _by_pillow(opened: Opened) -> _Decoded:
    opened.image.load()
    profile = real_profile(opened.image.info.get("icc_profile"))
    image, icc = with_own_profile(*to_8_bit(opened.image, profile))
    pixels, alpha = _arrays(image)
    upright = None if alpha is None else turned(alpha, opened.turn)
    return _Decoded(turned(pixels, opened.turn), upright, icc, image.mode in ("L", "LA"))


def _arrays(image: Image.Image) -> tuple[Pixels, Pixels | None]:
    """(H, W, 3) RGB and (H, W) alpha or None, from a picture in mode L, LA, RGB or RGBA."""
    channels = np.array(image)  # (H, W) or (H, W, 2 to 4)
    if channels.ndim == 2:
        channels = channels[..., None]  # (H, W, 1)
    alpha = np.ascontiguousarray(channels[..., -1]) if image.mode in ("LA", "RGBA") else None
    if image.mode in ("L", "LA"):
        return np.repeat(channels[..., :1], 3, axis=2), alpha
    return np.ascontiguousarray(channels[..., :3]), alpha


def _is_grey(pixels: Pixels) -> bool:
    """Return whether the three channels are equal; a thin sample answers for nearly all colour photos."""
    for part in (pixels[::_GREY_PROBE_STEP, ::_GREY_PROBE_STEP], pixels):
        if not (np.array_equal(part[..., 0], part[..., 1]) and np.array_equal(part[..., 0], part[..., 2])):
            return False
    return True
