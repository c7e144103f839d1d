"""Every colour model that we take, brought to grey or RGB with 8 bits, or refused with the reason."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from PIL import Image, ImageCms

from apf.errors import UnknownColours, UnsupportedPhoto
from apf.photo import icc as profiles

_ICC_HEADER_BYTES = 128

_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262

_PLAIN = {"1": "L", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB", "YCbCr": "RGB"}


def to_8_bit(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, bytes | None]:
    """Return the picture in mode L, LA, RGB or RGBA, and the profile that its colours now follow.

    Palettes and bilevel pictures become RGB or grey. 16-bit grey is scaled, CMYK goes to sRGB through its own profile.

    Raises:
        UnsupportedPhoto: there is no right way to bring the colours to 8 bits.
    """
    if image.mode in ("P", "PA"):
        return image.convert("RGBA" if image.has_transparency_data else "RGB"), icc
    if image.mode.startswith("I;16"):
        return _grey_16_to_8(image), icc
    if image.mode == "CMYK":
        return _cmyk_to_srgb(image, icc), srgb_profile()
    if image.mode in ("1", "L", "RGB") and image.has_transparency_data:  # one colour is declared transparent
        return image.convert("RGBA" if image.mode == "RGB" else "LA"), icc
    if image.mode in _PLAIN:
        return image.convert(_PLAIN[image.mode]), icc
    if image.mode in ("L", "LA", "RGB", "RGBA"):
        return image, icc
    raise UnsupportedPhoto(
        f"pixels of the kind {image.mode!r} (32-bit, floating point or Lab) have no faithful 8-bit form: "
        "convert it to RGB"
    )


def real_profile(icc: bytes | None) -> bytes | None:
    """Return a profile that colours can follow; None for any other bytes, which change no colour."""
    if not icc or len(icc) < _ICC_HEADER_BYTES:
        return None
    whole = icc[: int.from_bytes(icc[:4], "big")]
    try:
        ImageCms.ImageCmsProfile(io.BytesIO(whole))
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return whole


def with_own_profile(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, bytes | None]:
    """Return the picture with a profile of our own writing in place of the source's, which could carry anything.

    A profile that is not written anew is used up: the colours go to sRGB through it, if they can.
    """
    own = icc and profiles.rebuilt(icc)
    if icc is None or own:
        return image, own
    if image.mode not in ("RGB", "RGBA"):
        return image, None
    source, target = (ImageCms.ImageCmsProfile(io.BytesIO(profile)) for profile in (icc, srgb_profile()))
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    try:
        converted = ImageCms.profileToProfile(image, source, target, renderingIntent=intent, outputMode=image.mode)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):  # of another colour space: no reader can follow it
        return image, None
    return (image, None) if converted is None else (converted, srgb_profile())


@cache
def srgb_profile() -> bytes:
    """Return an sRGB profile, the same bytes at any time (littleCMS writes the time of day into its own)."""
    profile = profiles.rebuilt(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    if profile is None:
        raise RuntimeError("littleCMS makes an sRGB profile of an unknown kind: report it with Pillow's version")
    return profile


def _grey_16_to_8(image: Image.Image) -> Image.Image:
    tags = getattr(image, "tag_v2", {})
    if tags.get(_PHOTOMETRIC) == 0:
        raise UnsupportedPhoto("16-bit grey with white as zero is not supported: convert it to 8 bits")
    top = 2 ** int(tags.get(_BITS_PER_SAMPLE, (16,))[0]) - 1
    values = np.asarray(image).astype(np.uint32)
    grey = Image.fromarray(((values * 255 + top // 2) // top).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _cmyk_to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """Relative colorimetric with black point compensation, as image editors do it."""
    if not icc:
        raise UnknownColours("CMYK without an ICC profile, so its colours are unknown: convert it to RGB")
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        if profile.profile.xcolor_space.strip() != "CMYK":
            raise UnknownColours(f"CMYK with a profile for {profile.profile.xcolor_space.strip()}: convert it to RGB")
        converted = ImageCms.profileToProfile(
            image,
            profile,
            ImageCms.ImageCmsProfile(io.BytesIO(srgb_profile())),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        raise UnknownColours(f"CMYK whose ICC profile cannot be used ({error}): convert it to RGB") from error
    if converted is None:
        raise UnknownColours("CMYK whose ICC profile cannot be used: convert it to RGB")
    return converted
