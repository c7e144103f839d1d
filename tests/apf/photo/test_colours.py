"""Colours mean the same before and after, as littleCMS shows them on an sRGB screen."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from apf.photo import decode, encode
from apf.photo.icc import adobe_rgb, rebuilt
from tests.apf.photo.photos import FORMATS, as_array, cmyk_profile, portrait, reopen, save
from tests.apf.photo.profiles import (
    D50,
    SPACES,
    gamma_curve,
    grey_profile,
    in_srgb,
    matrix_profile,
    parametric_curve,
    profile,
    sampled_curve,
    table_profile,
    table_tag,
    to_space,
    with_first_colr,
    xyz,
)

#: 13 x 13 x 13 colours in a picture, grey and the corners among them.
PATCHES = Image.fromarray(
    np.stack(np.meshgrid(*[np.linspace(0, 255, 13)] * 3), -1).round().astype(np.uint8).reshape(13 * 13, 13, 3)
)
#: Mean difference in levels that a lossy format's own coding makes.
LOSS = {"PNG": 0, "TIFF": 0, "JPEG": 4, "WEBP": 5, "HEIF": 6, "AVIF": 5}


def assert_same_colours(icc: bytes, image: Image.Image = PATCHES) -> None:
    own = rebuilt(icc)
    assert own is not None
    assert rebuilt(own) == own
    assert abs(in_srgb(image, own) - in_srgb(image, icc)).max() <= 1


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(SPACES)),
    gamma=st.floats(0.9, 3.2),
    curve=st.sampled_from([gamma_curve, sampled_curve, parametric_curve]),
    version=st.sampled_from([2, 4]),
    gap=st.binary(max_size=40).map(lambda data: data + bytes(-len(data) % 4)),
)
def test_matrix_profiles_keep_their_colours(name, gamma, curve, version: int, gap: bytes) -> None:
    """A profile of any primaries and curves shows the same colours once it is written anew."""
    assert_same_colours(matrix_profile(name, curve(gamma), version=version, gap=gap))


@settings(max_examples=40, deadline=None)
@given(
    kind=st.integers(0, 4),
    numbers=st.tuples(*[st.floats(0.8, 1.2)] * 2, *[st.floats(0, 0.1)] * 5),
    gamma=st.floats(1, 3),
)
def test_parametric_curves_keep_their_colours(kind: int, numbers: tuple[float, ...], gamma: float) -> None:
    """Each of the five function types of a parametric curve is written anew with its own numbers."""
    values = [gamma, *numbers][: (1, 3, 4, 5, 7)[kind]]
    curve = (
        b"para\0\0\0\0"
        + struct.pack(">HH", kind, 0)
        + struct.pack(f">{len(values)}i", *(int(v * 65536) for v in values))
    )
    assert_same_colours(matrix_profile("srgb", curve, version=4))


@pytest.mark.parametrize("kind", [b"mft1", b"mft2", b"mAB "])
def test_table_profiles_keep_their_colours(kind: bytes) -> None:
    """Profiles that go by tables, as scanners' do, show the same colours."""
    assert_same_colours(table_profile(kind))


@pytest.mark.parametrize("gamma", [1.0, 1.8, 2.2])
def test_grey_profiles_keep_their_colours(gamma: float) -> None:
    """Grey profiles, too."""
    assert_same_colours(grey_profile(gamma), PATCHES.convert("L"))


def test_a_matrix_with_a_table_keeps_the_table() -> None:
    """Where a profile has both, readers go by the table, and it stays."""
    own = rebuilt(profile({b"A2B0": table_tag(b"mft2"), b"rXYZ": xyz(D50)}, pcs=b"Lab "))
    assert own is not None
    assert own.count(b"A2B0") == 1
    assert b"rXYZ" not in own


def test_a_profile_that_is_not_written_anew_is_used_up() -> None:
    """With a curve that goes up and down the pixels go to sRGB through it, and look the same."""
    wavy = (
        sampled_curve(2.2)[:12]
        + (np.linspace(0, 65535, 1024) + 400 * np.sin(np.arange(1024))).clip(0, 65535).astype(">u2").tobytes()
    )
    icc = matrix_profile("srgb", wavy)
    assert rebuilt(icc) is None
    data = save(portrait(), "PNG", icc_profile=icc)
    out = reopen(encode(decode(data)))
    assert abs(in_srgb(out, out.info["icc_profile"]) - in_srgb(reopen(data), icc)).max() <= 2


def test_a_profile_of_another_colour_space_is_left_out() -> None:
    """An RGB photo with a CMYK profile, which no reader can follow, leaves without it."""
    photo = decode(save(portrait(), "PNG", icc_profile=cmyk_profile()))
    assert photo.icc is None
    assert np.array_equal(photo.pixels, np.asarray(portrait()))


@pytest.mark.rotating
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("space", [*sorted(SPACES), "table", "grey"])
def test_every_space_in_every_container(kind: str, space: str) -> None:
    """A photo in any space looks the same after it was protected as before, in every format."""
    if (space, kind) == ("grey", "WEBP"):
        pytest.skip("WebP has no grey")
    if space == "grey":
        icc, image = grey_profile(), portrait().convert("L")
    else:
        icc = table_profile(b"mft2") if space == "table" else matrix_profile(space)
        image = portrait() if space == "table" else to_space(portrait(), icc)
    data = save(image, kind, icc_profile=icc)
    out = reopen(encode(decode(data)))
    before, after = in_srgb(reopen(data), icc), in_srgb(out, out.info["icc_profile"])
    assert abs(before - after).mean() <= LOSS[kind] + 0.1


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
@pytest.mark.parametrize("colours", [(1, 13), (12, 13), (9, 16), (9, 18)], ids=["srgb", "p3", "pq", "hlg"])
def test_declared_colours_stay(kind: str, colours: tuple[int, int]) -> None:
    """Primaries and transfer of the picture that is shown stay, whatever other items declare."""
    data = save(portrait(), kind)
    at = data.index(b"colrnclx") + 8
    data = data[:at] + struct.pack(">HH", *colours) + data[at + 4 :]
    for source in (data, with_first_colr(data, 4, 4)):
        out = encode(decode(source))
        assert struct.unpack_from(">HH", out, out.index(b"colrnclx") + 8) == colours


def test_senseless_colours_are_not_copied() -> None:
    """Numbers that mean no colours are left out (libheif refuses a HEIC with such)."""
    data = save(portrait(), "AVIF")
    at = data.index(b"colrnclx") + 8
    out = encode(decode(data[:at] + b"FACE" + data[at + 4 :]))
    assert b"colrnclxFACE" not in out


@pytest.mark.parametrize("bits", [8, 16])
def test_png_chunks_stay(bits: int) -> None:
    """A PNG's gamma and primaries stay as they are, also where its pixels had 16 bits."""
    gama = struct.pack(">I", 100_000)
    import zlib  # noqa: PLC0415

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = np.asarray(portrait()).astype(">u2" if bits == 16 else "u1") * (257 if bits == 16 else 1)
    packed = b"".join(b"\0" + row.astype(">u2" if bits == 16 else "u1").tobytes() for row in rows)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 96, 64, bits, 2, 0, 0, 0))
    data += chunk(b"gAMA", gama) + chunk(b"IDAT", zlib.compress(packed)) + chunk(b"IEND", b"")
    out = encode(decode(data))
    assert b"gAMA" + gama in out
    assert np.array_equal(as_array(reopen(out)), as_array(portrait()))


def camera_exif(index: str, colour_space: int) -> Image.Exif:
    exif = Image.Exif()
    directory = exif.get_ifd(ExifTags.IFD.Exif)
    directory[0xA001] = colour_space
    directory[0xA005] = {1: index, 2: b"0100"}
    return exif


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_a_cameras_adobe_rgb_keeps_its_meaning(kind: str) -> None:
    """A photo that is Adobe RGB by its EXIF alone (R03) leaves with a profile, and looks as Adobe RGB does."""
    source = matrix_profile("adobe")
    data = save(to_space(portrait(), source), kind, exif=camera_exif("R03", 65535))
    out = reopen(encode(decode(data)))
    assert out.info["icc_profile"] == adobe_rgb()
    assert abs(in_srgb(out, adobe_rgb()) - in_srgb(reopen(data), source)).mean() <= LOSS[kind]
    assert abs(in_srgb(PATCHES, adobe_rgb()) - in_srgb(PATCHES, source)).max() <= 2


@pytest.mark.parametrize(("index", "space"), [("R98", 1), ("R98", 65535), ("R03", 1)])
def test_other_cameras_are_left_alone(index: str, space: int) -> None:
    """What a camera calls sRGB, or does not name, gets no profile."""
    assert decode(save(portrait(), "JPEG", exif=camera_exif(index, space))).icc is None


def test_a_profile_outweighs_the_cameras_word() -> None:
    """With an embedded profile R03 says nothing."""
    icc = matrix_profile("p3")
    assert decode(save(portrait(), "JPEG", exif=camera_exif("R03", 65535), icc_profile=icc)).icc == rebuilt(icc)
