"""Read a photo's header before any decoding: format, upright size, and whether it is supported."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from PIL import ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from apf.errors import CameraRaw, CorruptPhoto, PhotoError, PhotoTooLarge, SeveralPictures, UnsupportedPhoto
from apf.photo import containers
from apf.photo.heif import HEIF_OPENER
from apf.photo.metadata import read_orientation

Format = Literal["JPEG", "PNG", "WEBP", "HEIF", "AVIF", "TIFF"]

CONTENT_TYPES: dict[Format, str] = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "HEIF": "image/heic",
    "AVIF": "image/avif",
    "TIFF": "image/tiff",
}

SUPPORTED = "JPEG, PNG, WebP, HEIC, AVIF or TIFF"

# The base class, not Pillow's factory: of a JPEG with several frames (MPO) only the first is opened.
_OPENERS: dict[Format, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WEBP": WebPImageFile,
    "AVIF": AvifImageFile,
    "TIFF": TiffImageFile,
}
if HEIF_OPENER:
    _OPENERS["HEIF"] = HEIF_OPENER

#: Leading bytes of the formats that are no ISO media; JPEG, PNG and TIFF are taken, the others refused by name.
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (containers.PNG_SIGNATURE, "PNG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"8BPS", "Photoshop (PSD)"),
    (b"FUJIFILMCCD-RAW", "camera raw (RAF)"),
    (b"IIRO", "camera raw (ORF)"),
    (b"IIU\0", "camera raw (RW2)"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"qoif", "QOI"),
)

_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_HEIF_SEQUENCE_BRANDS = {b"hevc", b"hevx", b"hevm", b"hevs", b"msf1"}

_BITS_PER_SAMPLE, _PLANAR_CONFIGURATION = 258, 284
_DNG_VERSION, _NEW_SUBFILE_TYPE, _IMAGE_WIDTH, _IMAGE_LENGTH = 50706, 254, 256, 257

# How Pillow and libheif word "whole, but of a kind that I cannot decode".
_UNSUPPORTED_PHRASES = (
    "cannot handle",
    "unknown pixel mode",
    "unknown data organization",
    "nsupported",
    "not supported",
)


@dataclass(frozen=True)
class Limits:
    """Limits of a photo's cost, checked before decoding."""

    #: Encoded size.
    max_bytes: int = 100 * 2**20
    #: Width times height.
    max_pixels: int = 200_000_000
    #: The setting that raises each of the two, for the message.
    bytes_setting: str = "APF_MAX_PHOTO_BYTES (max_bytes of Limits in Python)"
    pixels_setting: str = "APF_MAX_PHOTO_PIXELS (max_pixels of Limits in Python)"


@dataclass(frozen=True)
class Header:
    """Format and size of a photo, with its orientation applied: what `decode` will give."""

    format: Format
    width: int
    height: int

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def content_type(self) -> str:
        return CONTENT_TYPES[self.format]


@dataclass(frozen=True)
class Opened:
    """A photo whose header is read and within limits, and whose pixels are not decoded yet."""

    image: ImageFile.ImageFile
    header: Header
    #: EXIF orientation that is still to be applied to the decoded pixels, 1 to 8.
    turn: int


def read_header(data: bytes, limits: Limits | None = None) -> Header:
    """Format and upright size, without decoding.

    Raises:
        CorruptPhoto: the bytes are no picture, or the header is damaged.
        UnsupportedPhoto: a picture of a kind that we refuse, with the reason.
        PhotoTooLarge: over the limit in bytes or pixels.
    """
    return open_photo(data, limits or Limits()).header


def looks_like_photo(data: bytes) -> bool:
    """Return whether the leading bytes are those of any image kind that we know, also of the refused ones."""
    return _kind(data) is not None


def open_photo(data: bytes, limits: Limits) -> Opened:
    """Read the header and check everything that can be checked before decoding. Raises as `read_header`."""
    if len(data) > limits.max_bytes:
        raise PhotoTooLarge(
            f"the photo has {len(data):,} bytes, over the limit of {limits.max_bytes:,}: raise {limits.bytes_setting}"
        )
    kind = _format(data)
    if kind == "WEBP" and (canvas := containers.webp_canvas(data)):
        _check_pixels(*canvas, limits)  # opening a WebP allocates its canvas
    with decoder_errors(kind, "its header cannot be read"):
        image = _OPENERS[kind](io.BytesIO(data))
        _refuse_what_is_no_photo(image, kind, data)
        width, height = _stored_size(image)
    _check_pixels(width, height, limits)
    turn = read_orientation(image, data)
    upright = (height, width) if turn >= 5 else (width, height)
    # Pillow turns a TIFF itself while it loads.
    return Opened(image, Header(kind, *upright), turn=1 if kind == "TIFF" else turn)


@contextmanager
def decoder_errors(kind: str, what: str) -> Iterator[None]:
    """Turn whatever a decoder raises into our errors, chained. Decoders raise nearly anything on damaged bytes."""
    try:
        yield
    except PhotoError:
        raise
    except MemoryError as error:
        raise PhotoTooLarge(
            f"the {kind} needs more memory than there is: scale it down, or raise APF_MAX_PHOTO_PIXELS, "
            "by which a worker's decoders get theirs"
        ) from error
    except Exception as error:
        reason = f"{kind} photo, {what}: {error or type(error).__name__}"
        if any(phrase in str(error) for phrase in _UNSUPPORTED_PHRASES):
            raise UnsupportedPhoto(reason) from error
        raise CorruptPhoto(reason) from error


def _kind(data: bytes) -> str | None:
    """Return the name of the image format by its leading bytes; None where we know none."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        return _iso_media_kind(data)
    return next((name for magic, name in _MAGIC if data.startswith(magic)), None)


def _iso_media_kind(data: bytes) -> str | None:
    major = data[8:12]
    if major in _AVIF_BRANDS:
        return "AVIF"
    if major == b"crx ":
        return "camera raw (CR3)"
    if major in _HEIF_BRANDS:
        # `mif1` and `msf1` name the container alone; the codec is among the compatible brands.
        of_container = major in (b"mif1", b"msf1")
        return "AVIF" if of_container and _AVIF_BRANDS.intersection(containers.brands(data)) else "HEIF"
    return None


def _format(data: bytes) -> Format:
    kind = _kind(data)
    if kind is None:
        shown = f"begin with {data[:8]!r}" if data else "are none"
        raise CorruptPhoto(f"not a photo, its bytes {shown}: give a {SUPPORTED} file")
    for known in _OPENERS:
        if kind == known:
            return known
    if kind == "HEIF":
        raise UnsupportedPhoto("HEIC needs the pillow-heif package: pip install pillow-heif")
    refused = CameraRaw if kind.startswith("camera raw") else UnsupportedPhoto
    raise refused(f"{kind} is not supported: convert it to {SUPPORTED}")


def _check_pixels(width: int, height: int, limits: Limits) -> None:
    if width < 1 or height < 1:
        raise CorruptPhoto(f"the photo claims a size of {width} x {height}")
    if width * height > limits.max_pixels:
        raise PhotoTooLarge(
            f"the photo has {width} x {height} = {width * height:,} pixels, over the limit of {limits.max_pixels:,}: "
            f"raise {limits.pixels_setting}, or scale it down"
        )


def _stored_size(image: ImageFile.ImageFile) -> tuple[int, int]:
    """Width and height before the orientation is applied (Pillow gives a TIFF's after it)."""
    if isinstance(image, TiffImageFile):
        return image.tag_v2[_IMAGE_WIDTH], image.tag_v2[_IMAGE_LENGTH]
    return image.size


def _refuse_what_is_no_photo(image: ImageFile.ImageFile, kind: Format, data: bytes) -> None:
    if kind == "TIFF":
        _refuse_camera_raw(image, data)
        _refuse_raw_planes(image)
    if kind == "HEIF":
        # Several pictures in one file are no film: the primary one is the photo.
        if data[8:12] in _HEIF_SEQUENCE_BRANDS:
            raise SeveralPictures("the HEIC is an image sequence: extract one picture from it")
        return
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        what = "pages" if kind == "TIFF" else "frames of animation"
        raise SeveralPictures(f"the {kind} has {frames} {what}: split it into single photos")


def _refuse_camera_raw(image: ImageFile.ImageFile, data: bytes) -> None:
    """Camera raw files (DNG, CR2, NEF, ARW) are TIFFs whose first picture is a thumbnail or a mosaic."""
    tags = getattr(image, "tag_v2", {})
    if data[8:10] == b"CR" or _DNG_VERSION in tags or int(tags.get(_NEW_SUBFILE_TYPE, 0)) & 1:
        raise CameraRaw("the TIFF is a camera's raw file: develop it to a JPEG or TIFF first")


def _refuse_raw_planes(image: ImageFile.ImageFile) -> None:
    """Pillow reads 16-bit planes that lie one after the other uncompressed, and gives noise."""
    tags = getattr(image, "tag_v2", {})
    planar = tags.get(_PLANAR_CONFIGURATION, 1) == 2
    if planar and image.info.get("compression") == "raw" and max(tags.get(_BITS_PER_SAMPLE, (1,))) > 8:
        raise UnsupportedPhoto("the TIFF has uncompressed 16-bit planes: save it with interleaved channels")
