"""Decoding at a distance: what crashes or never ends costs one photo."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import skimage.data
from PIL import Image

from apf.errors import CameraRaw, CorruptPhoto, PhotoTooLarge, UnknownColours, UnsupportedPhoto
from apf.photo import Limits, decode, encode
from tests.workers.decoding.planted import MAGIC
from workers.config.settings import Settings
from workers.decoding import decoder_process
from workers.decoding.decoder_answers import Unforeseen
from workers.decoding.decoder_pool import Decoder
from workers.execution.engine import shared_decoder

GIBIBYTE = 2**30


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(skimage.data.astronaut()).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    found = Decoder(processes=2, limit_s=20, memory_bytes=2 * GIBIBYTE)
    yield found
    found.close()


def test_gives_what_decoding_here_gives(decoder: Decoder) -> None:
    data = jpeg()
    assert decoder.header(data, Limits()) == decode(data).header
    here, there = decode(data), decoder.decode(data, Limits(), ())
    np.testing.assert_array_equal(there.pixels, here.pixels)
    assert (there.icc, there.exif, there.alpha, there.coding) == (here.icc, here.exif, here.alpha, here.coding)


def test_alpha_and_many_sizes_come_whole(decoder: Decoder) -> None:
    """What is lent fits the photo: one pixel, odd sides, alpha, and a large one beside small ones."""
    random = np.random.default_rng(1)
    files = []
    for shape in [(1, 1, 4), (3, 5, 4), (7, 1001, 3), (2000, 3000, 3), (64, 64, 4)]:
        buffer = io.BytesIO()
        Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(buffer, "PNG", compress_level=1)
        files.append(buffer.getvalue())
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda data: decoder.decode(data, Limits(), ()), files))
    for data, there in zip(files, found, strict=True):
        here = decode(data)
        np.testing.assert_array_equal(there.pixels, here.pixels)
        assert (there.alpha is None) == (here.alpha is None)
        if here.alpha is not None:
            np.testing.assert_array_equal(there.alpha, here.alpha)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere pixels are copied")
def test_lent_memory_is_given_back(decoder: Decoder) -> None:
    """Once photos are forgotten, no file is left open and none of their memory, whether they were decoded or failed."""
    whole, cut = jpeg(), jpeg()[:5000]

    def decode_some() -> None:
        for _ in range(20):
            photo = decoder.decode(whole, Limits(), ())
            decoder.encode(photo, photo.pixels, jpeg_floor_quality=75)
            with pytest.raises(CorruptPhoto):
                decoder.decode(cut, Limits(), ())

    def held() -> tuple[int, int]:
        """Open files of this process, and photos in its memory; a decoder's own are tested in its cage."""
        return len(list(Path("/proc/self/fd").iterdir())), Path("/proc/self/maps").read_text().count("apf-photo")

    decode_some()
    before = held()
    decode_some()
    assert held() == before
    assert before[1] == 0


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "HEIF", "AVIF"])
def test_encodes_as_encoding_here_does(decoder: Decoder, kind: str) -> None:
    """Byte for byte, in each format, with alpha where it has it, other pixels than the photo's own, and its tags."""
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x8298] = "Ann"
    mode = "RGB" if kind == "JPEG" else "RGBA"
    Image.fromarray(skimage.data.astronaut()[:200, :300]).convert(mode).save(buffer, kind, exif=exif)
    photo = decoder.decode(buffer.getvalue(), Limits(), ("Copyright",))
    pixels = photo.pixels ^ 1
    there = decoder.encode(photo, pixels, jpeg_floor_quality=80)
    assert there == encode(decode(buffer.getvalue(), keep_metadata=("Copyright",)), pixels, jpeg_floor_quality=80)
    assert b"Ann" in there


def test_errors_come_back_as_they_are(decoder: Decoder) -> None:
    with pytest.raises(CorruptPhoto):
        decoder.decode(jpeg()[:5000], Limits(), ())
    with pytest.raises(UnsupportedPhoto):
        decoder.header(b"GIF89a" + bytes(100), Limits())
    with pytest.raises(PhotoTooLarge):
        decoder.decode(jpeg(), Limits(max_pixels=1000), ())


#: As a decoder with a bug: SIGSEGV; one that never ends; one that wants more memory than there is.
CRASH, HANG, EAT = "ctypes.string_at(0)", "time.sleep(600)", "bytearray(64 * 2**30)"


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Decoder]:
    """One that runs what stands behind a photo."""
    monkeypatch.setattr(decoder_process, "PROGRAM", "tests.workers.decoding.planted")
    found = Decoder(processes=2, limit_s=20, memory_bytes=2 * GIBIBYTE)
    yield found
    found.close()


def with_code(code: str) -> bytes:
    return jpeg() + MAGIC + code.encode()


def test_a_crash_costs_the_photo_alone(planted: Decoder) -> None:
    """Photos beside it and after it are decoded; the process that called lives."""
    data = jpeg()
    with ThreadPoolExecutor(4) as pool:
        bad = pool.submit(planted.decode, with_code(CRASH), Limits(), ())
        good = [pool.submit(planted.decode, data, Limits(), ()) for _ in range(6)]
        for future in good:
            assert future.result(60).pixels.shape == (512, 512, 3)
        if not isinstance(bad.exception(60), CorruptPhoto):
            pytest.fail(f"the crash gave {bad.exception()!r}")
    assert "died 3 times" in str(bad.exception())


def test_what_never_ends_is_stopped(planted: Decoder) -> None:
    """Its decoder is ended, the photo refused in time, and the next one decoded."""
    planted._limit_s = 1.5
    started = time.monotonic()
    with pytest.raises(CorruptPhoto, match=r"longer than 1\.5 s"):
        planted.decode(with_code(HANG), Limits(), ())
    assert time.monotonic() - started < 30
    assert planted.decode(jpeg(), Limits(), ()).pixels.shape == (512, 512, 3)


def test_memory_is_limited(planted: Decoder) -> None:
    """What is wanted beyond the limit is refused in the decoder, which goes on."""
    with pytest.raises(MemoryError):
        planted.decode(with_code(EAT), Limits(), ())
    assert planted.decode(jpeg(), Limits(), ()).pixels.shape == (512, 512, 3)


def test_what_nobody_foresaw_is_told(planted: Decoder) -> None:
    """An error that no decoder should raise comes back by its name, and is no PhotoError."""
    with pytest.raises(Unforeseen, match="ZeroDivisionError: division by zero"):
        planted.decode(with_code("1 / 0"), Limits(), ())


def test_it_has_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the worker's variables it keeps the harmless ones alone; /proc shows no other, to itself or to a neighbour."""
    monkeypatch.setattr(decoder_process, "PROGRAM", "tests.workers.decoding.planted")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("APF_BROKER_URL", "redis://:hunter2@host")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    fresh = Decoder(processes=1, limit_s=20, memory_bytes=2 * GIBIBYTE, cage="off")
    try:
        with pytest.raises(CorruptPhoto) as told:
            fresh.decode(with_code("said = (dict(os.environ), open('/proc/self/environ', 'rb').read())"), Limits(), ())
    finally:
        fresh.close()
    assert "'OMP_NUM_THREADS': '1'" in str(told.value)
    assert os.environ["PATH"] in str(told.value)
    assert "hunter2" not in str(told.value)


def test_its_processes_end_with_their_parent() -> None:
    """A worker's child that is killed leaves nothing behind."""
    code = (
        "import sys; from tests.workers.decoding.test_decoder_pool import jpeg; from apf.photo import Limits\n"
        "from workers.decoding.decoder_pool import Decoder\n"
        "if __name__ == '__main__':\n"
        "    d = Decoder(processes=2, limit_s=20, memory_bytes=2**31)\n"
        "    d.header(jpeg(), Limits()); print('ready', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        children = psutil.Process(parent.pid).children(recursive=True)
        assert len(children) >= 2
        parent.kill()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []


def test_a_phones_largest_photo_passes_by_default() -> None:
    """A JPEG of 200 megapixels, to be turned, fits the limits and the memory that a decoder has."""
    size = (16_320, 12_240)
    exif = Image.Exif()
    exif[0x112] = 6
    buffer = io.BytesIO()
    Image.fromarray(skimage.data.astronaut()).resize(size).save(buffer, "JPEG", exif=exif)
    settings = Settings()
    limits = Limits(max_bytes=settings.max_photo_bytes, max_pixels=settings.max_photo_pixels)
    decoder = shared_decoder(settings)
    try:
        assert decoder.decode(buffer.getvalue(), limits, ()).pixels.shape == (*size, 3)
    finally:
        decoder.close()
        shared_decoder.cache_clear()


def test_what_is_over_a_limit_names_the_variable(decoder: Decoder) -> None:
    """A photo over either limit is refused by size, limit and the variable that raises it."""
    with pytest.raises(PhotoTooLarge, match=r"512 x 512 = 262,144 pixels, .* 1,000: raise APF_MAX_PHOTO_PIXELS"):
        decoder.decode(jpeg(), Limits(max_pixels=1000), ())
    with pytest.raises(PhotoTooLarge, match=r"bytes, .* 50: raise APF_MAX_PHOTO_BYTES"):
        decoder.header(jpeg(), Limits(max_bytes=50))
    assert Limits().max_pixels == Settings().max_photo_pixels == 200_000_000
    assert Limits().max_bytes == Settings().max_photo_bytes


def test_a_refusal_keeps_its_kind_on_the_way_out_of_the_decoder(decoder: Decoder) -> None:
    """What a report's code says comes from the kind of error, which a decoder tells by its number."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).convert("CMYK").save(buffer, "JPEG")
    with pytest.raises(UnknownColours):
        decoder.decode(buffer.getvalue(), Limits(), ())
    with pytest.raises(CameraRaw):
        decoder.header(b"FUJIFILMCCD-RAW " + bytes(50), Limits())
