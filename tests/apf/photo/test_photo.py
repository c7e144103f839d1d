"""Photos in, photos out. Sources are made with Pillow and read back with Pillow, as the independent oracle."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from pathlib import Path
from typing import Any

import insightface
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps, PngImagePlugin

from apf.errors import CorruptPhoto, PhotoError, PhotoTooLarge, UnsupportedPhoto
from apf.photo import Limits, check_metadata_names, decode, encode, looks_like_photo, read_header
from apf.photo.colour import srgb_profile
from apf.photo.jpeg import floor_tables
from tests.apf.photo.photos import FORMATS, as_array, cmyk_profile, portrait, reopen, save

SECRETS = {"gps": b"GPS-SECRET", "comment": b"COMMENT-SECRET", "xmp": b"XMP-SECRET", "maker": b"MAKER-SECRET"}
T1 = Path(insightface.__file__).parent / "data" / "images" / "t1.jpg"


def exif_with(orientation: object = 1) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Artist] = "ARTIST-SECRET"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2024:05:06 07:08:09"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.MakerNote] = SECRETS["maker"]
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSAreaInformation] = SECRETS["gps"]
    loaded = Image.Exif()  # the TIFF writer knows the inner directories only of a block that was read
    loaded.load(exif.tobytes())
    return loaded


# ---------------------------------------------------------------- header


@pytest.mark.parametrize("kind", FORMATS)
def test_header_tells_format_and_size_without_decoding(kind: str) -> None:
    """The header of each format has its name, size and content type, from an open that decodes nothing."""
    header = read_header(save(portrait(), kind))
    assert (header.format, header.width, header.height, header.pixels) == (kind, 96, 64, 96 * 64)
    assert header.content_type.startswith("image/")


@pytest.mark.parametrize("kind", FORMATS)
def test_limits_are_checked_before_decoding(kind: str) -> None:
    """A photo over a limit is refused by value and limit, and one at the limit is taken."""
    data = save(portrait(), kind)
    read_header(data, Limits(max_bytes=len(data), max_pixels=96 * 64))
    with pytest.raises(PhotoTooLarge, match=r"96 x 64 = 6,144 pixels.*6,143"):
        decode(data, Limits(max_pixels=96 * 64 - 1))
    with pytest.raises(PhotoTooLarge, match=f"{len(data):,} bytes"):
        read_header(data, Limits(max_bytes=len(data) - 1))


def test_a_bomb_is_refused_from_its_header() -> None:
    """A PNG that claims 60,000 x 60,000 pixels is refused though Pillow's own limit is off."""
    data = bytearray(save(portrait(), "PNG"))
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    with pytest.raises(PhotoTooLarge, match="60000 x 60000"):
        read_header(bytes(data))


@pytest.mark.parametrize("kind", ["GIF", "BMP", "JPEG2000"])
def test_other_formats_are_refused_with_the_cure(kind: str) -> None:
    """A picture of a format that we do not write is UnsupportedPhoto, and is still known for a photo."""
    data = save(portrait(), kind)
    assert looks_like_photo(data)
    with pytest.raises(UnsupportedPhoto, match="convert it"):
        read_header(data)


@pytest.mark.parametrize("data", [b"", b"hello, world", bytes(100), b"RIFF....WAVE", b"\xff\xd8\xff", b"II*\0"])
def test_what_is_no_photo_is_corrupt(data: bytes) -> None:
    """No bytes, text, zeros and bare magic numbers are CorruptPhoto."""
    with pytest.raises(CorruptPhoto):
        decode(data)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "AVIF", "TIFF"])
def test_films_and_pages_are_refused(kind: str) -> None:
    """Animations and multi-page TIFFs are refused: protecting one frame would publish the others."""
    data = save(portrait(), kind, save_all=True, append_images=[ImageOps.mirror(portrait())])
    with pytest.raises(UnsupportedPhoto, match="has 2"):
        read_header(data)


@pytest.mark.parametrize("kind", ["JPEG", "HEIF"])
def test_of_several_pictures_only_the_first_comes_out(kind: str) -> None:
    """A JPEG with a second frame (MPO), and a HEIC with a second picture, leave with the primary one alone."""
    other = Image.new("RGB", (96, 64), "red")
    data = save(portrait(), "MPO" if kind == "JPEG" else kind, save_all=True, append_images=[other])
    out = encode(decode(data))
    with Image.open(io.BytesIO(out)) as image:
        assert (image.format, getattr(image, "n_frames", 1)) == (kind, 1)
    assert abs(as_array(reopen(out)) - as_array(portrait())).mean() < 8


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("kind", FORMATS)
def test_truncated_at_every_tenth(kind: str) -> None:
    """A photo cut anywhere raises one of our errors, or (behind its last pixel) still decodes to its size."""
    data = save(portrait(), kind, **({"compression": "tiff_lzw"} if kind == "TIFF" else {}))
    for tenth in range(10):
        cut = data[: len(data) * tenth // 10]
        with pytest.raises((CorruptPhoto, UnsupportedPhoto)):
            decode(cut)


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(FORMATS), at=st.floats(0, 0.999), junk=st.binary(min_size=1, max_size=8))
def test_damage_raises_nothing_else(kind: str, at: float, junk: bytes) -> None:
    """Bytes overwritten anywhere either decode or raise a PhotoError, never what the decoder raised."""
    data = bytearray(save(portrait(24, 16), kind))
    start = int(at * len(data))
    data[start : start + len(junk)] = junk
    try:
        decode(bytes(data), Limits(max_pixels=1_000_000))
    except PhotoError as error:
        assert str(error)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"RIFF\0\0\0\0WEBP"]), st.binary(max_size=64)
)
def test_random_bytes_raise_nothing_else(magic: bytes, rest: bytes) -> None:
    """Random bytes behind any magic number raise a PhotoError."""
    with pytest.raises(PhotoError):
        decode(magic + rest, Limits(max_pixels=1_000_000))


# ---------------------------------------------------------------- orientation


@pytest.mark.rotating
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_orientations_come_out_upright(kind: str, orientation: int) -> None:
    """The eight orientations are applied to the pixels once, and the output needs no turning."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = save(portrait(), kind, exif=exif)
    upright = ImageOps.exif_transpose(reopen(data))
    photo = decode(data)
    assert read_header(data) == photo.header
    assert photo.pixels.shape == (upright.height, upright.width, 3)
    assert np.array_equal(photo.pixels, np.asarray(upright.convert("RGB")))
    out = reopen(encode(photo))
    assert out.size == upright.size
    assert out.getexif().get(ExifTags.Base.Orientation, 1) == 1
    assert abs(as_array(ImageOps.exif_transpose(out)) - as_array(upright)).mean() < 8


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_a_senseless_orientation_counts_as_upright(orientation: int) -> None:
    """An orientation out of range turns nothing."""
    photo = decode(save(portrait(), "JPEG", exif=exif_with(orientation)))
    assert (photo.header.width, photo.header.height) == (96, 64)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_is_no_reason_to_refuse() -> None:
    """A JPEG with a damaged EXIF block decodes upright, and its kept tags are none."""
    photo = decode(save(portrait(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f"), keep_metadata=("Artist",))
    assert photo.exif is None
    assert photo.pixels.shape == (64, 96, 3)


def test_png_orientation_behind_the_pixels_is_found() -> None:
    """A PNG may carry its EXIF after the pixels; the header already knows."""
    data = save(portrait(), "PNG")
    body = exif_with(6).tobytes()[6:]
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
    data = data[:-12] + chunk + data[-12:]
    assert (read_header(data).width, read_header(data).height) == (64, 96)
    assert decode(data).pixels.shape == (96, 64, 3)


# ---------------------------------------------------------------- colours and alpha


LOSSLESS: list[tuple[str, dict[str, Any]]] = [
    ("PNG", {}),
    ("WEBP", {"lossless": True, "exact": True}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "tiff_adobe_deflate", "tiffinfo": {317: 2}}),
]


@pytest.mark.rotating
@pytest.mark.parametrize(("kind", "options"), LOSSLESS, ids=repr)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
def test_lossless_stays_lossless(kind: str, options: dict[str, Any], mode: str) -> None:
    """Pixels, alpha, and colours under transparent pixels come back bit for bit, in the same mode and compression."""
    source = portrait(mode=mode)
    data = save(source, kind, **options)
    photo = decode(data)
    out = reopen(encode(photo))
    assert np.array_equal(as_array(out.convert("RGBA")), as_array(source.convert("RGBA")))
    assert out.mode == reopen(data).mode
    assert out.info.get("compression") == reopen(data).info.get("compression")
    assert photo.grey == mode.startswith("L")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "HEIF", "AVIF", "TIFF"])
def test_grey_stays_one_grey_channel(kind: str) -> None:
    """A greyscale photo decodes to three equal channels and leaves as greyscale; colour is refused for it."""
    photo = decode(save(portrait(mode="L"), kind))
    assert photo.grey
    assert photo.single_channel
    assert reopen(encode(photo)).mode == "L"
    with pytest.raises(ValueError, match="one grey channel"):
        encode(photo, np.asarray(portrait()))


@pytest.mark.parametrize("kind", ["WEBP", "HEIF", "AVIF"])
def test_alpha_survives_lossy_coding(kind: str) -> None:
    """Alpha of lossy formats comes back within two levels."""
    photo = decode(save(portrait(mode="RGBA"), kind, quality=80))
    again = decode(encode(photo))
    assert photo.alpha is not None
    assert again.alpha is not None
    assert abs(photo.alpha.astype(int) - again.alpha).max() <= 2


def test_palettes_and_bilevel_become_plain() -> None:
    """A palette PNG becomes RGB, with transparency RGBA; a one-bit one becomes grey. The pixels are the same."""
    palette = portrait().quantize(16)
    assert reopen(encode(decode(save(palette, "PNG")))).mode == "RGB"
    out = reopen(encode(decode(save(palette, "PNG", transparency=3))))
    assert out.mode == "RGBA"
    assert np.array_equal(as_array(out)[..., 3] == 0, as_array(palette) == 3)
    bilevel = portrait().convert("1")
    out = reopen(encode(decode(save(bilevel, "PNG"))))
    assert (out.mode, np.array_equal(as_array(out), as_array(bilevel.convert("L")))) == ("L", True)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    """The whole 16-bit range maps onto the 8-bit one, rounded."""
    values = np.linspace(0, 65535, 96 * 64).astype(np.uint16).reshape(64, 96)
    photo = decode(save(Image.fromarray(values), kind))
    assert photo.single_channel
    assert np.array_equal(photo.pixels[..., 0], np.rint(values / 257).astype(np.uint8))


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("planar", [False, True])
def test_16_bit_colour_tiff_keeps_the_upper_byte_or_is_refused(compression: str | None, planar: bool) -> None:
    """16-bit RGB comes out as its upper bytes; the one layout that Pillow reads wrongly is refused."""
    values = np.random.default_rng(0).integers(0, 65536, (20, 30, 3)).astype(np.uint16)
    buffer = io.BytesIO()
    stored = np.ascontiguousarray(np.moveaxis(values, -1, 0)) if planar else values
    layout = "separate" if planar else "contig"
    tifffile.imwrite(buffer, stored, photometric="rgb", planarconfig=layout, compression=compression)
    if planar and compression is None:
        with pytest.raises(UnsupportedPhoto, match="planes"):
            read_header(buffer.getvalue())
    else:
        assert np.array_equal(decode(buffer.getvalue()).pixels, values >> 8)


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_declared_primaries_are_kept(kind: str) -> None:
    """A HEIC or AVIF that declares Display P3 without an ICC profile still declares it afterwards."""
    data = save(portrait(), kind)
    at = data.index(b"colrnclx") + 8
    out = encode(decode(data[:at] + b"\0\x0c\0\x0d" + data[at + 4 :]))
    assert out[out.index(b"colrnclx") + 8 :].startswith(b"\0\x0c\0\x0d")


def test_float_pixels_are_refused() -> None:
    """A floating-point TIFF has no given white, and is refused."""
    with pytest.raises(UnsupportedPhoto, match="'F'"):
        decode(save(portrait().convert("F"), "TIFF"))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_goes_to_srgb_through_its_profile(kind: str) -> None:
    """CMYK with a profile turns into the colours of that profile, with an sRGB profile attached."""
    patches = Image.new("CMYK", (96, 64), (0, 0, 0, 0))
    patches.paste((0, 0, 0, 255), (0, 0, 32, 64))
    patches.paste((0, 255, 255, 0), (32, 0, 64, 64))
    photo = decode(save(patches, kind, icc_profile=cmyk_profile()))
    black, red, white = (photo.pixels[32, x].astype(int) for x in (16, 48, 80))
    assert black.max() < 20
    assert white.min() > 235
    assert red[0] > red[1] + 60
    assert red[0] > red[2] + 60
    assert photo.icc is not None
    assert photo.icc[16:20] == b"RGB "
    assert photo.icc[24:36] == bytes(12)
    assert reopen(encode(photo)).mode == "RGB"


@pytest.mark.parametrize("icc", [None, b"no profile at all", "srgb"])
def test_cmyk_without_its_profile_is_refused(icc: bytes | str | None) -> None:
    """CMYK with no profile, a broken one, or one of another colour space is refused: its colours are unknown."""
    profile = srgb_profile() if icc == "srgb" else icc
    with pytest.raises(UnsupportedPhoto, match="CMYK"):
        decode(save(portrait().convert("CMYK"), "JPEG", **({"icc_profile": profile} if profile else {})))


# ---------------------------------------------------------------- what survives


def large_profile(size: int) -> bytes:
    """The sRGB profile, declared and padded to be of this size, as printers' are."""
    profile = srgb_profile()
    return size.to_bytes(4, "big") + profile[4:] + bytes(size - len(profile))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("size", [0, 300_000], ids=["srgb", "large"])
def test_icc_profile_is_kept_without_its_padding(kind: str, size: int) -> None:
    """A profile, also a large one, comes out as its numbers alone, and the same a second time."""
    photo = decode(save(portrait(), kind, icc_profile=large_profile(size) if size else srgb_profile()))
    assert photo.icc == srgb_profile()
    out = encode(photo)
    assert reopen(out).info["icc_profile"] == decode(out).icc == srgb_profile()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("icc", [b"broken profile", bytes(300_000), b"hidden " * 40], ids=["short", "zeros", "text"])
def test_what_is_no_icc_profile_does_not_come_through(kind: str, icc: bytes) -> None:
    """It changes no colour, and could carry anything."""
    photo = decode(save(portrait(), kind, icc_profile=icc))
    assert photo.icc is None
    assert icc not in encode(photo)


def test_what_hangs_behind_a_profile_does_not_come_through() -> None:
    photo = decode(save(portrait(), "JPEG", icc_profile=srgb_profile() + b"hidden"))
    assert photo.icc == srgb_profile()


def private_photo(kind: str) -> bytes:
    """A photo with every kind of secret that its format can carry, and a trailing video."""
    options: dict[str, Any] = {"exif": exif_with(6)}
    if kind in ("JPEG", "WEBP", "HEIF", "AVIF"):
        options["xmp"] = b"<x:xmpmeta>" + SECRETS["xmp"] + b"</x:xmpmeta>"
    if kind == "JPEG":
        options["comment"] = SECRETS["comment"]
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_text("Comment", SECRETS["comment"].decode())
        info.add_itxt("XML:com.adobe.xmp", SECRETS["xmp"].decode())
        options["pnginfo"] = info
    if kind == "TIFF":
        options["exif"][270] = SECRETS["comment"].decode()
        options["exif"][700] = SECRETS["xmp"]
    if kind == "HEIF":
        options["thumbnails"] = [32]
    return save(portrait(), kind, **options)


@pytest.mark.parametrize("kind", FORMATS)
def test_nothing_private_survives(kind: str) -> None:
    """No byte of GPS, comment, XMP, maker note, author, date or trailing video is in the output."""
    data = private_photo(kind)
    if kind not in ("HEIF", "AVIF"):
        data += b"TRAILING-VIDEO-SECRET"
    assert data.count(b"SECRET") >= 3
    out = encode(decode(data))
    assert b"SECRET" not in out
    assert b"2024:05:06" not in out
    image = reopen(out)
    left = set(image.info) & {"exif", "xmp", "comment", "photoshop", "dpi", "XML:com.adobe.xmp", "Comment"}
    assert not {key for key in left if image.info[key]} - ({"dpi"} if kind == "TIFF" else set())


@pytest.mark.parametrize("kind", FORMATS)
def test_only_named_tags_are_kept(kind: str) -> None:
    """Tags on the allow-list come out, from whichever EXIF directory; all others do not."""
    out = encode(decode(private_photo(kind), keep_metadata=("DateTimeOriginal", "Artist")))
    exif = reopen(out).getexif()
    assert exif[ExifTags.Base.Artist] == "ARTIST-SECRET"
    assert exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] == "2024:05:06 07:08:09"
    assert exif.get(ExifTags.Base.Orientation, 1) == 1
    assert not any(secret in out for secret in SECRETS.values())


def test_gps_is_kept_only_where_named() -> None:
    """GPSInfo keeps the whole GPS directory."""
    exif = reopen(encode(decode(private_photo("JPEG"), keep_metadata=("GPSInfo",)))).getexif()
    assert exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSAreaInformation] == SECRETS["gps"]


@pytest.mark.parametrize("name", ["Orientation", "MakerNote", "XMLPacket", "StripOffsets", "JpegIFOffset", "NoSuchTag"])
def test_unknown_and_forbidden_tags_are_refused(name: str) -> None:
    """A tag that is unknown, or would carry a thumbnail or foreign layout, is a ValueError that says so."""
    with pytest.raises(ValueError, match=f"'{name}'"):
        check_metadata_names((name,))


# ---------------------------------------------------------------- JPEG coding


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_leaves_with_its_own_coding(subsampling: int, progressive: bool) -> None:
    """Tables (in the right order), sampling and progression are the source's, and the size within 4 %."""
    options = {"quality": 88, "subsampling": subsampling, "progressive": progressive, "optimize": True}
    data = save(portrait(400, 300), "JPEG", **options)
    out = encode(decode(data))
    source, again = Image.open(io.BytesIO(data)), Image.open(io.BytesIO(out))
    assert again.quantization == source.quantization
    assert again.layer == source.layer
    assert again.info.get("progressive") == source.info.get("progressive")
    assert abs(len(out) / len(data) - 1) < 0.04


def test_a_real_jpeg_keeps_its_size() -> None:
    """InsightFace's group photo (quality 70) leaves, untouched, with its tables and within 1 % of its size."""
    data = T1.read_bytes()
    out = encode(decode(data), jpeg_floor_quality=70)
    assert Image.open(io.BytesIO(out)).quantization == Image.open(io.BytesIO(data)).quantization
    assert abs(len(out) / len(data) - 1) < 0.01
    assert len(encode(decode(data))) / len(data) < 1.05  # at the default floor of 75


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_coarse_tables_are_replaced_by_the_floor(mode: str) -> None:
    """A JPEG of quality 40 leaves with the IJG tables of the floor, and one above the floor with its own."""
    photo = decode(save(portrait(mode=mode), "JPEG", quality=40))
    luma, chroma = floor_tables(80)
    tables = Image.open(io.BytesIO(encode(photo, jpeg_floor_quality=80))).quantization
    expected = [luma] if mode == "L" else [luma, chroma]
    assert [tuple(tables[i]) for i in sorted(tables)] == expected
    own = Image.open(io.BytesIO(encode(photo, jpeg_floor_quality=30))).quantization
    assert tuple(own[0]) == floor_tables(40)[0]


def test_a_jpeg_denser_than_two_bytes_a_pixel_is_written() -> None:
    """Noise at quality 100 outgrows Pillow's buffer for optimised files, and is written all the same."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = save(noise, "JPEG", quality=100, subsampling=0, icc_profile=large_profile(102_400))
    assert decode(encode(decode(data))).icc == srgb_profile()


# ---------------------------------------------------------------- all formats


@pytest.mark.parametrize(("kind", "quality"), [("WEBP", 75), ("WEBP", 90), ("AVIF", 75), ("HEIF", 65)])
def test_lossy_formats_keep_about_their_size(kind: str, quality: int) -> None:
    """Where the quality is not told, the output is within 20 % of the source's size."""
    data = save(portrait(400, 300), kind, quality=quality)
    assert abs(len(encode(decode(data))) / len(data) - 1) < 0.20


@pytest.mark.rotating
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (17, 23)], ids=repr)
def test_odd_sizes_round_trip(kind: str, size: tuple[int, int]) -> None:
    """Photos of one pixel, row or column and of odd sides keep format and size, and encode to the same bytes twice."""
    photo = decode(save(portrait(*size), kind))
    before = photo.pixels.copy()
    out = encode(photo)
    assert out == encode(photo)
    assert (read_header(out).format, read_header(out).width, read_header(out).height) == (kind, *size)
    assert photo.pixels.flags.c_contiguous
    assert np.array_equal(photo.pixels, before)


@pytest.mark.parametrize("kind", FORMATS)
def test_new_pixels_are_what_comes_out(kind: str) -> None:
    """The pixels that are given are encoded, not the photo's own; others than uint8 of its shape are refused."""
    photo = decode(save(portrait(), kind))
    out = decode(encode(photo, 255 - photo.pixels))
    assert abs(out.pixels.astype(int) - (255 - photo.pixels)).mean() < 10
    for wrong in (photo.pixels[1:], photo.pixels.astype(np.float32)):
        with pytest.raises(ValueError, match="give uint8 of shape"):
            encode(photo, wrong)


@settings(max_examples=25, deadline=None)
@given(
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    mode=st.sampled_from(["RGB", "RGBA", "L", "LA"]),
    kind=st.sampled_from(["PNG", "TIFF"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_lossless_round_trip_of_any_pixels(width: int, height: int, mode: str, kind: str, seed: int) -> None:
    """Decode, encode, decode gives the same pixels and alpha for any content."""
    shape = (height, width) if mode == "L" else (height, width, len(mode))
    image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), mode=None)
    photo = decode(save(image, kind))
    again = decode(encode(photo))
    assert np.array_equal(photo.pixels, again.pixels)
    assert (photo.alpha is None) == (again.alpha is None)
    assert photo.alpha is None or np.array_equal(photo.alpha, again.alpha)


def test_threads_decode_alike() -> None:
    """Eight threads that decode all formats at once get what one thread gets."""
    files = [save(portrait(), kind) for kind in FORMATS]
    expected = [decode(data).pixels for data in files]
    wrong: list[int] = []

    def work() -> None:
        for _ in range(5):
            wrong.extend(i for i, data in enumerate(files) if not np.array_equal(decode(data).pixels, expected[i]))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
