"""The unprotected photo, hidden wherever a file has room for bytes, never comes through."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image

from apf.photo import decode, encode
from apf.photo.exif import EXIF, IFD0, Tag, write_tags
from apf.photo.icc import rebuilt
from tests.apf.photo.photos import FORMATS, portrait, reopen, save
from tests.apf.photo.profiles import (
    gamma_curve,
    grey_profile,
    lab_grid,
    matrix_profile,
    profile,
    table_profile,
    table_tag,
    xyz,
)

FACE = save(portrait(40, 40), "JPEG", quality=70)
#: Its compressed pixels; tables are the same in any JPEG.
PIXELS = FACE[FACE.index(b"\xff\xda") + 14 : -2]


def holds_the_face(data: bytes) -> bool:
    """Whether any 16 bytes of the hidden photo's pixels are in it, also where they lie in every other byte."""
    pieces = [PIXELS[at : at + 16] for at in range(0, len(PIXELS) - 16, 8)]
    return any(piece in part for part in (data, data[::2], data[1::2]) for piece in pieces)


def png_with(kind: bytes, body: bytes) -> bytes:
    data = save(portrait(), "PNG")
    return (
        data[:33] + struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) + data[33:]
    )


@pytest.mark.parametrize(
    ("kind", "value"),
    [(b"gAMA", struct.pack(">I", 45455)), (b"cHRM", bytes(32)), (b"sRGB", b"\0"), (b"cICP", b"\x0c\x0d\0\1")],
)
def test_no_colour_chunk_carries_the_face(kind: bytes, value: bytes) -> None:
    """A PNG's colour chunk that is longer than its numbers is left out, and one of the right size is kept."""
    data = png_with(kind, value + FACE)
    assert holds_the_face(data)
    assert not holds_the_face(encode(decode(data)))
    assert kind + value in encode(decode(png_with(kind, value)))


def curve_of(data: bytes) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">I", len(data) // 2) + data[: len(data) // 2 * 2]


def grid_with_face(wide: bool, where: str) -> np.ndarray:
    """A grid with the face in its bytes, or in the upper or lower halves of its numbers."""
    numbers = np.round(lab_grid(17) * (65535 if wide else 255)).astype(np.uint16).ravel()
    face = np.frombuffer(PIXELS, np.uint8)[: len(numbers) // 2].astype(np.uint16)
    part = numbers[1000 : 1000 + len(face)]
    part[:] = {"all": face, "upper": face << 8, "lower": part & 0xFF00 | face}[where]
    return numbers.reshape(17, 17, 17, 3)


#: Profiles that hold the face, each in another place.
PROFILES = {
    "a private tag": matrix_profile("srgb", extra={b"priv": b"data\0\0\0\0\0\0\0\1" + FACE}),
    "a known tag of another type": matrix_profile("srgb", extra={b"dmnd": b"data\0\0\0\0" + FACE}),
    "the description": matrix_profile("srgb", extra={b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(FACE)) + FACE}),
    "the copyright": matrix_profile("srgb", extra={b"cprt": b"text\0\0\0\0" + FACE}),
    "between the tags": matrix_profile("srgb", gap=FACE + bytes(-len(FACE) % 4)),
    "behind an XYZ": matrix_profile("srgb", extra={b"gXYZ": xyz((0.385, 0.717, 0.097)) + FACE}),
    "behind a curve": matrix_profile("srgb", gamma_curve(2.2) + FACE),
    "a curve's points": matrix_profile("srgb", curve_of(FACE)),
    "behind the white point": matrix_profile("srgb", extra={b"wtpt": xyz((0.9642, 1, 0.8249)) + FACE}),
    "behind a grey curve": profile({b"kTRC": gamma_curve(2.2) + FACE}, space=b"GRAY"),
    "the table back": profile({b"A2B0": table_tag(b"mft2"), b"B2A0": table_tag(b"mft1") + FACE}, pcs=b"Lab "),
    **{f"behind {k!r}": table_profile(k, table_tag(k, behind=FACE)) for k in (b"mft1", b"mft2", b"mAB ")},
    "an 8-bit grid": table_profile(b"mft1", table_tag(b"mft1", grid_with_face(False, "all"))),
    "upper bytes": table_profile(b"mft2", table_tag(b"mft2", grid_with_face(True, "upper"))),
    "lower bytes": table_profile(b"mft2", table_tag(b"mft2", grid_with_face(True, "lower"))),
    "lower bytes of mAB": table_profile(b"mAB ", table_tag(b"mAB ", grid_with_face(True, "lower"))),
    "behind the profile": matrix_profile("srgb") + FACE,
}


@pytest.mark.parametrize("place", PROFILES)
def test_no_profile_carries_the_face(place: str) -> None:
    """Wherever a profile holds the face, it is not in what leaves, and the photo leaves all the same."""
    assert holds_the_face(PROFILES[place])
    image = portrait().convert("L") if place == "behind a grey curve" else portrait()
    photo = decode(save(image, "JPEG", icc_profile=PROFILES[place]))
    assert photo.icc
    assert not holds_the_face(photo.icc)
    assert not holds_the_face(encode(photo))


@pytest.mark.parametrize("kind", FORMATS)
def test_no_container_carries_a_profiles_secret(kind: str) -> None:
    """The profile of every format is written anew."""
    data = save(portrait(), kind, icc_profile=PROFILES["a private tag"])
    out = encode(decode(data))
    assert reopen(out).info["icc_profile"] == rebuilt(PROFILES["a private tag"])
    assert not holds_the_face(out)


def test_of_the_header_only_numbers_come_through() -> None:
    """Date, makers, flags, attributes and the reserved bytes of a profile's header are of our own writing."""
    clean = rebuilt(matrix_profile("srgb"))
    assert clean is not None
    marked = bytearray(matrix_profile("srgb"))
    for start, stop in ((4, 8), (24, 36), (40, 64), (80, 128)):
        marked[start:stop] = (b"\xabSECRET" * 10)[: stop - start]
    assert rebuilt(bytes(marked)) == clean


@pytest.mark.rotating
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("Copyright", Tag(IFD0, 0x8298, 2, FACE)),
        ("Artist", Tag(IFD0, 0x13B, 7, FACE)),
        ("XPTitle", Tag(IFD0, 0x9C9B, 1, FACE[: len(FACE) // 2 * 2])),
        ("DateTimeOriginal", Tag(EXIF, 0x9003, 2, FACE)),
        ("UserComment", Tag(EXIF, 0x9286, 7, b"ASCII\0\0\0" + FACE)),
        ("UserComment", Tag(EXIF, 0x9286, 7, b"UNICODE\0" + FACE[: len(FACE) // 2 * 2])),
        ("TransferFunction", Tag(IFD0, 0x12D, 3, FACE[: len(FACE) // 2 * 2])),
        ("ImageDescription", Tag(IFD0, 0x10E, 2, b"all is well " * 500)),
    ],
)
def test_no_kept_tag_carries_the_face(kind: str, name: str, tag: Tag) -> None:
    """A named EXIF tag that holds a photo, or is too long, is left out with a note that names it; the photo leaves."""
    exif = Image.Exif()
    exif.load(write_tags("<", [tag]))
    data = save(portrait(), kind, exif=write_tags("<", [tag])) if kind != "TIFF" else tiff_with(tag)
    if name == "TransferFunction":
        with pytest.raises(ValueError, match="TransferFunction"):
            decode(data, keep_metadata=(name,))
        return
    photo = decode(data, keep_metadata=(name,))
    assert [name in note for note in photo.notes] == [True]
    out = encode(photo)
    assert not holds_the_face(out)
    assert b"all is well" not in out
    assert ExifTags.Base[name] not in reopen(out).getexif()


def tiff_with(tag: Tag) -> bytes:
    from apf.photo.exif import into_tiff, read_tags  # noqa: PLC0415

    return into_tiff(save(portrait(), "TIFF"), read_tags(write_tags("<", [tag])))


def test_a_grey_profile_is_written_anew() -> None:
    """A grey photo's profile keeps its curve."""
    own = rebuilt(grey_profile())
    assert own is not None
    assert gamma_curve(2.2) in own
