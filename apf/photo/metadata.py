"""Read EXIF, and keep the little that may be kept of it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from PIL import ExifTags, Image, ImageFile, TiffTags

from apf.photo import containers
from apf.photo.exif import EXIF as _EXIF
from apf.photo.exif import GPS as _GPS
from apf.photo.exif import IFD0 as _IFD0
from apf.photo.exif import INTEROP, Tag, Tags, read_tags, write_tags

_BASE_CODES = {tag.name: int(tag) for tag in ExifTags.Base}
_GPS_CODES = {tag.name: int(tag) for tag in ExifTags.GPS}
#: Names by code: of all directories but GPS, and of GPS.
_NAMES = [{code: name for name, code in codes.items()} for codes in (_BASE_CODES, _GPS_CODES)]

_INDEX, _COLOUR_SPACE, _SRGB = 1, 0xA001, 1

#: ASCII and UTF-8.
_TEXT_TYPES = (2, 129)
#: Texts that open with the name of their encoding.
_COMMENTS, _GPS_COMMENTS = (int(ExifTags.Base.UserComment),), (27, 28)
#: XPTitle, XPComment, XPAuthor, XPKeywords, XPSubject: UTF-16.
_WINDOWS_TEXTS = range(0x9C9B, 0x9CA0)
#: Bytes of a text, of any other value, and of all kept tags together, which have to fit a JPEG's segment.
_MAX_TEXT, _MAX_VALUE, _MAX_BLOCK = 4096, 256, 60_000

#: Names that are refused: what describes the old file's layout, or opens a way for whole blocks of metadata.
_NEVER = {
    *(name for name, code in _BASE_CODES.items() if code in TiffTags.LIBTIFF_CORE),
    *(name for name in _BASE_CODES if name.startswith(("Jpeg", "JPEG", "JpegIF", "Strip", "Tile", "SubIFD"))),
    *("Orientation", "MakerNote", "XMLPacket", "IPTCNAA", "ImageResources", "ExifOffset", "ExifInteroperabilityOffset"),
    *(
        "InterColorProfile",
        "NewSubfileType",
        "SubfileType",
        "ImageWidth",
        "ImageLength",
        "FreeOffsets",
        "FreeByteCounts",
    ),
    *("DNGPrivateData", "MakerNoteSafety", "OriginalRawFileData", "AsShotICCProfile", "CurrentICCProfile"),
}


def check_metadata_names(names: tuple[str, ...]) -> None:
    """Raise ValueError where a name is no EXIF tag, or one that must not be kept."""
    for name in names:
        if name in _NEVER:
            raise ValueError(f"the EXIF tag {name!r} can never be kept: take it out of keep_metadata")
        if name not in _BASE_CODES and name not in _GPS_CODES:
            raise ValueError(
                f"unknown EXIF tag {name!r} in keep_metadata: use names as in PIL.ExifTags, "
                "such as DateTimeOriginal, Copyright, Artist or GPSInfo"
            )


def read_orientation(image: ImageFile.ImageFile, data: bytes) -> int:
    """How the stored pixels are to be turned, 1 to 8. A damaged or unknown orientation counts as 1.

    As in Pillow's `exif_transpose`, XMP is asked where EXIF does not say. HEIC and AVIF are turned by their container's
    own properties alone: libheif has then turned the pixels already, and Pillow reports an AVIF's as EXIF.
    """
    if image.format == "HEIF":
        return 1
    try:
        exif = Image.Exif() if image.format == "AVIF" else read_exif(image, data)
        if image.format == "AVIF":
            exif.load(image.info.get("exif", b""))
        turn = exif.get(ExifTags.Base.Orientation, 1)
    except Exception:  # a damaged EXIF block raises anything, and is no reason to refuse the photo
        return 1
    return turn if isinstance(turn, int) and 1 <= turn <= 8 else 1


def read_exif(image: ImageFile.ImageFile, data: bytes) -> Image.Exif:
    """Return the EXIF block, read without decoding the pixels. Raises anything where it is damaged."""
    if image.format == "PNG" and "exif" not in image.info:
        # It may stand behind the pixels, where Pillow finds it only by decoding them.
        late = next((bytes(body) for kind, body in containers.png_chunks(data) if kind == b"eXIf"), None)
        if late is not None:
            image.info["exif"] = b"Exif\0\0" + late
    return Image.Image.getexif(image)  # not the PNG plugin's own, which decodes


def read_raw(image: ImageFile.ImageFile, data: bytes) -> Tags:
    """Return the photo's EXIF tags as they stand in its file. Raises nothing."""
    if image.format == "TIFF":
        return read_tags(data)
    block = image.info.get("exif")
    if image.format == "PNG":
        block = next((bytes(body) for kind, body in containers.png_chunks(data) if kind == b"eXIf"), block)
    return read_tags(block or b"")


def is_adobe_rgb(tags: Tags) -> bool:
    """Return whether a camera says so, in the way of DCF 2.0: by the interoperability index R03, without a profile."""
    index = tags.found.get((INTEROP, _INDEX))
    return index is not None and index.value[:3] == b"R03" and tags.number(_EXIF, _COLOUR_SPACE) != _SRGB


def kept_exif(tags: Tags, names: tuple[str, ...]) -> tuple[bytes | None, tuple[str, ...]]:
    """Return an EXIF block of the named tags alone, byte for byte, and notes on those that had to be left out.

    The block is None where the photo has none of them.
    """
    kept: list[Tag] = []
    notes: list[str] = []
    size = 0
    for place in _named_places(names):
        tag = tags.found.get(place)
        reason = tags.broken.get(place) if tag is None else _unfit(tag)
        if tag is not None and reason is None and size + len(tag.value) > _MAX_BLOCK:
            reason = f"all kept tags together have over {_MAX_BLOCK:,} bytes"
        if reason is not None:
            notes.append(f"the EXIF tag {_NAMES[place[0] == _GPS].get(place[1])} was left out: {reason}")
        elif tag is not None:
            kept.append(tag)
            size += len(tag.value)
    return (write_tags(tags.order, kept) if kept else None), tuple(notes)


def same_exif(block: bytes, names: tuple[str, ...]) -> bool:
    """Return whether an EXIF block is as `kept_exif` writes it: of the named tags alone, and kept once more the
    same.
    """
    return kept_exif(read_tags(block), names)[0] == block


def _named_places(names: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    """Yield the directory and code of each tag that is named; GPSInfo names the whole GPS directory."""
    base = {_BASE_CODES[name] for name in names if name in _BASE_CODES} - {_GPS}
    gps = set(_GPS_CODES.values()) if "GPSInfo" in names else {_GPS_CODES[name] for name in names if name in _GPS_CODES}
    for directory, codes in ((_IFD0, base), (_EXIF, base), (_GPS, gps)):
        yield from ((directory, code) for code in sorted(codes))


def _unfit(tag: Tag) -> str | None:
    """Why a tag is not kept although it is named: it could carry a picture. None for one that is."""
    comment = tag.code in (_COMMENTS if tag.directory != _GPS else _GPS_COMMENTS)
    if not (tag.kind in _TEXT_TYPES or comment or tag.code in _WINDOWS_TEXTS):
        return None if len(tag.value) <= _MAX_VALUE else f"its {len(tag.value):,} bytes are over {_MAX_VALUE}"
    if len(tag.value) > _MAX_TEXT:
        return f"its {len(tag.value):,} bytes of text are over {_MAX_TEXT:,}"
    if tag.kind not in _TEXT_TYPES and tag.code in _WINDOWS_TEXTS:
        readable = _is_utf16(tag.value, "utf-16-le")
    elif comment and tag.value[:8] == b"UNICODE\0":
        readable = any(_is_utf16(tag.value[8:], order) for order in ("utf-16-le", "utf-16-be"))
    else:
        # In any encoding; that of JIS comments switches alphabets by escapes.
        allowed = b"\0\t\n\r\x1b" if comment and tag.value[:3] == b"JIS" else b"\0\t\n\r"
        readable = all((byte >= 0x20 and byte != 0x7F) or byte in allowed for byte in tag.value)
    return None if readable else "its bytes are no text"


def _is_utf16(value: bytes, encoding: str) -> bool:
    try:
        text = value.decode(encoding)
    except UnicodeDecodeError:
        return False
    return all(unicodedata.category(character) not in ("Cc", "Co") or character in "\0\t\n\r" for character in text)
