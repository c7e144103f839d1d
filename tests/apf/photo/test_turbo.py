"""JPEGs by simplejpeg: what Pillow gives, and what it has to judge is left to it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from apf.errors import CorruptPhoto
from apf.photo import decode, turbo


def jpeg(picture: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.fixture
def by_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where simplejpeg is not installed."""
    monkeypatch.setattr(turbo, "simplejpeg", None)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize(("height", "width"), [(512, 512), (97, 131), (1, 1), (8, 500)])
def test_pixels_are_pillows(height: int, width: int, subsampling: str, progressive: bool) -> None:
    """To the bit, for every sampling, progressive or not, also where blocks reach beyond the edge."""
    data = jpeg(astronaut()[:height, :width], quality=88, subsampling=subsampling, progressive=progressive)
    found = turbo.decode_jpeg(opened(data), data)
    assert found is not None
    np.testing.assert_array_equal(found, np.asarray(opened(data)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_as_pillow_turns_it(orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each EXIF orientation gives the same photo by both."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(astronaut()[:200, :300], exif=exif)
    fast = decode(data)
    monkeypatch.setattr(turbo, "simplejpeg", None)
    slow = decode(data)
    np.testing.assert_array_equal(fast.pixels, slow.pixels)
    assert (fast.header, fast.coding, fast.grey) == (slow.header, slow.coding, slow.grey)
    assert fast.pixels.flags.c_contiguous


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_colours_are_left_to_pillow(mode: str) -> None:
    """Grey keeps its one channel, CMYK needs its profile."""
    buffer = io.BytesIO()
    Image.fromarray(astronaut()).convert(mode).save(buffer, "JPEG")
    assert turbo.decode_jpeg(opened(buffer.getvalue()), buffer.getvalue()) is None


def test_a_cut_photo_fails_as_before() -> None:
    """What simplejpeg refuses Pillow is asked about, and its error is what the user reads."""
    data = jpeg(astronaut())[:-3000]
    assert turbo.decode_jpeg(opened(data), data) is None
    with pytest.raises(CorruptPhoto, match="truncated"):
        decode(data)


def test_rubbish_between_segments_is_no_reason_to_refuse(by_pillow: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A JPEG that is read with a warning is read still, with the same pixels as without simplejpeg."""
    data = jpeg(astronaut())
    at = data.index(b"\xff\xda")
    odd = data[:at] + b"\x00\x00\x00" + data[at:]  # libjpeg warns of extraneous bytes before the scan
    before = decode(odd).pixels
    monkeypatch.undo()
    np.testing.assert_array_equal(decode(odd).pixels, before)
