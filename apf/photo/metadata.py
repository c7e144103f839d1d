"""What is read from EXIF, and the little that may be kept of it."""

from __future__ import annotations

from collections.abc import Iterator

from PIL import ExifTags, Image, ImageFile, TiffTags

from apf.photo import containers

_IFD0, _EXIF, _GPS = 0, int(ExifTags.IFD.Exif), int(ExifTags.IFD.GPSInfo)

#: (directory, code, value) of one EXIF tag.
Tag = tuple[int, int, object]

_BASE_CODES = {tag.name: int(tag) for tag in ExifTags.Base}
_GPS_CODES = {tag.name: int(tag) for tag in ExifTags.GPS}

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
    """Raises ValueError where a name is no EXIF tag, or one that must not be kept."""
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
    """The EXIF block, read without decoding the pixels. Raises anything where it is damaged."""
    if image.format == "PNG" and "exif" not in image.info:
        # It may stand behind the pixels, where Pillow finds it only by decoding them.
        late = next((bytes(body) for kind, body in containers.png_chunks(data) if kind == b"eXIf"), None)
        if late is not None:
            image.info["exif"] = b"Exif\0\0" + late
    return Image.Image.getexif(image)  # not the PNG plugin's own, which decodes


def kept_exif(image: ImageFile.ImageFile, data: bytes, names: tuple[str, ...]) -> bytes | None:
    """An EXIF block of the named tags alone, as far as the photo has them; None where it has none."""
    if not names:
        return None
    try:
        source = read_exif(image, data)
    except Exception:  # as above
        return None
    # A tag whose value cannot be written again is left out, the others stay.
    tags = [tag for tag in _named_tags(source, names) if _can_be_written(tag)]
    return _exif_block(tags) if tags else None


def _named_tags(exif: Image.Exif, names: tuple[str, ...]) -> Iterator[Tag]:
    """Each tag of `exif` that is named; GPSInfo names the whole GPS directory."""
    base = {_BASE_CODES[name] for name in names if name in _BASE_CODES} - {_GPS}
    gps = set(_GPS_CODES.values()) if "GPSInfo" in names else {_GPS_CODES[name] for name in names if name in _GPS_CODES}
    for directory, codes in ((_IFD0, base), (_EXIF, base), (_GPS, gps)):
        values = exif if directory == _IFD0 else exif.get_ifd(directory)
        for code in sorted(codes):
            if code in values:
                yield directory, code, values[code]


def _can_be_written(tag: Tag) -> bool:
    try:
        _exif_block([tag])
    except Exception:  # Pillow's writer raises as many kinds of error as there are kinds of tag
        return False
    return True


def _exif_block(tags: list[Tag]) -> bytes:
    exif = Image.Exif()
    for directory, code, value in tags:
        if directory == _IFD0:
            exif[code] = value
        else:
            exif.get_ifd(directory)[code] = value
    return exif.tobytes()
