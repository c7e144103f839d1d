"""EXIF tags that are to be kept keep their bytes, and no tag makes a photo fail."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from apf.photo import decode, encode
from apf.photo.exif import EXIF, GPS, IFD0, PREFIX, Tag, into_tiff, read_tags, write_tags
from apf.photo.metadata import _BASE_CODES, _NEVER
from tests.apf.photo.photos import FORMATS, portrait, reopen, save

#: Each tag by one name, without the directory of GPS.
#: All but those that say of a TIFF that it is a raw file.
NAMES = sorted(
    {_BASE_CODES[name]: name for name in _BASE_CODES if name not in _NEVER | {"GPSInfo", "DNGVersion"}}.values()
)
#: Pillow warns of each damaged tag; `apf.photo` silences that, and the tests' settings undo it.
pytestmark = pytest.mark.filterwarnings("ignore")
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 129: 1}


def photo_with(kind: str, *tags: Tag, order: str = "<") -> bytes:
    block = write_tags(order, tags)
    if kind == "TIFF":
        return into_tiff(save(portrait(), "TIFF", compression="tiff_lzw"), read_tags(block))
    return save(portrait(), kind, exif=block)


def tags_of(out: bytes, kind: str) -> dict[tuple[int, int], Tag]:
    return read_tags(out if kind == "TIFF" else reopen(out).info["exif"]).found


@pytest.mark.rotating
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("text", ["© 2024 José", "写真 太郎"])
@pytest.mark.parametrize("encoding", ["utf-8", "gb18030"])
def test_texts_keep_their_bytes(kind: str, order: str, text: str, encoding: str) -> None:
    """Copyright and artist leave byte for byte, in whatever encoding, from either byte order."""
    value = text.encode(encoding) + b"\0"
    data = photo_with(kind, Tag(IFD0, 0x8298, 2, value), Tag(IFD0, 0x13B, 2, value), order=order)
    photo = decode(data, keep_metadata=("Copyright", "Artist"))
    assert photo.notes == ()
    out = encode(photo)
    found = tags_of(out, kind)
    assert found[IFD0, 0x8298].value == found[IFD0, 0x13B].value == value
    assert value in out


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_a_tiff_with_an_exif_directory_is_taken(order: str, compression: str | None) -> None:
    """Date, exposure and place come out of a compressed TIFF's directories, as Pillow reads them, with its pixels."""
    tags = [
        Tag(EXIF, 0x9003, 2, b"2020:01:02 03:04:05\0"),
        Tag(EXIF, 0x829A, 5, struct.pack(order + "LL", 1, 250)),
        Tag(EXIF, 0x8827, 3, struct.pack(order + "H", 400)),
        Tag(GPS, 2, 5, struct.pack(order + "6L", 52, 1, 30, 1, 1234, 100)),
    ]
    data = into_tiff(save(portrait(), "TIFF", compression=compression), read_tags(write_tags(order, tags)))
    names = ("DateTimeOriginal", "ExposureTime", "ISOSpeedRatings", "GPSInfo")
    image = reopen(encode(decode(data, keep_metadata=names)))
    exif = image.getexif()
    inner = exif.get_ifd(EXIF)
    assert (inner[0x9003], inner[0x829A], inner[0x8827]) == ("2020:01:02 03:04:05", 1 / 250, 400)
    assert tuple(map(float, exif.get_ifd(GPS)[2])) == (52, 30, 12.34)
    assert np.array_equal(np.asarray(image), np.asarray(portrait()))


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF"]),
    order=st.sampled_from("<>"),
    wanted=st.lists(
        st.tuples(st.sampled_from(NAMES), st.sampled_from(sorted(SIZES)), st.binary(min_size=8, max_size=400)),
        max_size=5,
    ),
    directory=st.sampled_from([IFD0, EXIF]),
)
def test_no_tag_of_any_type_makes_a_photo_fail(kind, order, wanted, directory) -> None:
    """Named tags of every type and length either leave byte for byte, or are left out with a note that names them."""
    tags = {name: Tag(directory, _BASE_CODES[name], t, v[: len(v) // SIZES[t] * SIZES[t]]) for name, t, v in wanted}
    data = photo_with(kind, *tags.values(), order=order)
    photo = decode(data, keep_metadata=tuple(tags))
    out = encode(photo)
    assert reopen(out).size == portrait().size
    block = read_tags(photo.exif or b"")
    source = read_tags(data if kind == "TIFF" else Image.open(io.BytesIO(data)).info["exif"])
    for name, tag in tags.items():
        kept = block.found.get((directory, tag.code))
        assert (kept is None) == any(f" {name} " in note for note in photo.notes)
        assert kept is None or kept == source.found[directory, tag.code]
    if photo.exif:
        assert {tag.code for tag in tags_of(out, kind).values()} >= {code for _, code in block.found}


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "WEBP"]),
    block=st.binary(max_size=300),
    head=st.sampled_from([b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b""]),
)
def test_no_damaged_exif_makes_a_photo_fail(kind: str, block: bytes, head: bytes) -> None:
    """Any bytes for an EXIF block leave the photo whole."""
    photo = decode(save(portrait(), kind, exif=PREFIX + head + block), keep_metadata=tuple(NAMES))
    assert reopen(encode(photo)).size


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_what_cannot_be_read_is_named(kind: str) -> None:
    """A named tag of an unknown type, or that points out of the file, is left out with its reason; others stay."""
    texts = (0x10E, 7, b"a"), (0x13B, 2, b"Ann\0"), (0x8298, 2, b"longer than four\0")
    block = write_tags("<", [Tag(IFD0, *text) for text in texts])
    data = bytearray(into_tiff(save(portrait(), "TIFF"), read_tags(block)) if kind == "TIFF" else block)
    at = data.rindex(struct.pack("<HH", 0x10E, 7))
    data[at + 2] = 99
    at = data.rindex(struct.pack("<HH", 0x8298, 2))
    data[at + 8 : at + 12] = b"\xff\xff\xff\x7f"
    photo = decode(bytes(data) if kind == "TIFF" else save(portrait(), kind, exif=bytes(data)),
                   keep_metadata=("ImageDescription", "Copyright", "Artist"))  # fmt: skip
    assert [note.partition(" was ")[0].split()[-1] for note in photo.notes] == ["ImageDescription", "Copyright"]
    assert "type 99" in photo.notes[0]
    assert "outside the file" in photo.notes[1]
    assert tags_of(encode(photo), kind)[IFD0, 0x13B].value == b"Ann\0"


def test_big_tiffs_are_read() -> None:
    """BigTIFF's wider directories are read, too."""
    text = b"\xc2\xa9 Jos\xc3\xa9 Ibarra\0"
    data = save(portrait(), "TIFF", big_tiff=True, tiffinfo={0x8298: "x" * (len(text) - 1)})
    data = data.replace(b"x" * (len(text) - 1), text[:-1])
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "TIFF"
    assert tags_of(encode(decode(data, keep_metadata=("Copyright",))), "TIFF")[IFD0, 0x8298].value == text
