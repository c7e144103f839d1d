"""Hundreds of bad photos through the real decoder and encoder: each ends in an outcome, and takes nothing with it."""

from __future__ import annotations

import io
import os
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from apf.photo import Limits, Photo
from apf.runtime.stage_clock import StageClock
from tests.faults.corpus import SECRET, corpus, saved, whole
from tests.workers.execution.test_shard_pipeline import Scene
from workers.config.settings import Settings
from workers.core.records import Outcome, PhotoReport
from workers.decoding.decoder_pool import Decoder
from workers.execution.engine import Cost, cost_of

SOAK = os.environ.get("APF_SOAK") == "1"
#: Seconds of the mutation loop.
FUZZ_S = float(os.environ.get("APF_FUZZ_S", "600" if SOAK else "4"))
#: Refused files, however slow the machine is.
LEAST = 50

MEBIBYTE = 2**20
SETTINGS = Settings(max_photo_pixels=30_000_000, max_photo_bytes=40 * MEBIBYTE, decode_limit_s=20)
LIMITS = Limits(max_bytes=SETTINGS.max_photo_bytes, max_pixels=SETTINGS.max_photo_pixels)
#: Of one decoder process.
DECODER_BYTES = 1536 * MEBIBYTE

pytestmark = pytest.mark.timeout(600 + 2 * int(FUZZ_S))


@dataclass(frozen=True)
class Changed:
    photo: Photo
    pixels: np.ndarray
    outcome: str = "protected"
    faces: tuple[int, ...] = (1,)


class PixelEngine:
    """Decodes and encodes as the real one does; instead of protecting faces it changes every pixel a little."""

    lanes = 1

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        #: Of each file's bytes.
        self.seconds: dict[bytes, float] = {}
        self.decoder_bytes = 0

    def estimate_cost(self, data: bytes) -> Cost:
        return cost_of(self.decoder.header(data, LIMITS))

    def decode(self, data: bytes) -> Photo:
        started = time.monotonic()
        try:
            return self.decoder.decode(data, LIMITS, ())
        finally:
            self.seconds[data] = time.monotonic() - started
            self.decoder_bytes = max(self.decoder_bytes, peak_of_children())

    def protect(self, photos: Sequence[Photo], clock: StageClock) -> list[Any]:
        return [Changed(photo, photo.pixels ^ 1) for photo in photos]

    def encode(self, protected: Changed) -> bytes:
        return self.decoder.encode(protected.photo, protected.pixels, jpeg_floor_quality=75)


def peak_of_children() -> int:
    """The most memory that any process below this one has held, in bytes."""
    peaks = [0]
    for child in psutil.Process().children(recursive=True):
        with suppress(OSError):
            status = Path(f"/proc/{child.pid}/status").read_text()
            peaks += [int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")]
    return max(peaks)


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    found = Decoder(processes=2, limit_s=SETTINGS.decode_limit_s, memory_bytes=DECODER_BYTES)
    yield found
    found.close()


@pytest.fixture(scope="module")
def ran(decoder: Decoder) -> Iterator[tuple[dict[str, bytes], dict[str, PhotoReport], dict[str, bytes], PixelEngine]]:
    """The corpus, its reports, what was published of it, and the engine that did it."""
    files = corpus()
    scene = Scene("bad-inputs", files)
    scene.settings = SETTINGS
    engine = PixelEngine(decoder)
    scene.engine = engine  # type: ignore[assignment]
    reports = scene.run()
    yield files, reports, scene.outputs(), engine


def test_every_file_ends_in_an_outcome(ran: Any, capsys: pytest.CaptureFixture[str]) -> None:
    files, reports, outputs, engine = ran
    assert len(files) >= 300
    assert reports.keys() == files.keys()
    written = {key for key, report in reports.items() if report.outcome is Outcome.protected}
    assert written == outputs.keys()
    for key, report in reports.items():
        assert report.outcome is Outcome.protected or report.reason, key
        assert "unexpected" not in str(report.reason), (key, report.reason)
        assert not report.transient, (key, report.reason)
    with capsys.disabled():
        print_table(files, reports, engine)
    for key in whole():
        assert reports[f"whole/{key[0]}"].outcome is Outcome.protected


def print_table(files: dict[str, bytes], reports: dict[str, PhotoReport], engine: PixelEngine) -> None:
    """As in docs/faults.md; the soak's alone by kind."""
    kinds = sorted({key.split("/")[0] for key in files})
    if SOAK:
        print("\n| kind | files | protected | failed, with the reason | slowest, s |\n|---|---:|---:|---:|---:|")
    for kind in kinds if SOAK else []:
        chosen = [key for key in files if key.startswith(f"{kind}/")]
        outcomes = Counter(reports[key].outcome.value for key in chosen)
        slowest = max(engine.seconds.get(files[key], 0.0) for key in chosen)
        print(f"| {kind} | {len(chosen)} | {outcomes['protected']} | {outcomes['failed']} | {slowest:.2f} |")
    outcomes = Counter(report.outcome.value for report in reports.values())
    print(
        f"\nbad inputs: {len(files)} files, {dict(outcomes)}, crashes 0, slowest {max(engine.seconds.values()):.1f} s, "
        f"most memory of a decoder {engine.decoder_bytes // MEBIBYTE} MiB"
    )


@pytest.mark.parametrize("family", ["bombs", "empty"])
def test_what_is_no_photo_in_size_is_refused(ran: Any, family: str) -> None:
    _, reports, _, _ = ran
    chosen = {key: report for key, report in reports.items() if key.startswith(f"{family}/")}
    assert chosen
    published = [key for key, report in chosen.items() if report.outcome is Outcome.protected]
    # Small pictures with a large text or profile beside them: what is large is not even unpacked.
    assert set(published) <= {"bombs/png-text.png", "bombs/png-icc.png"}


def test_time_is_bounded(ran: Any) -> None:
    _, _, _, engine = ran
    assert max(engine.seconds.values()) < SETTINGS.decode_limit_s
    assert engine.decoder_bytes < DECODER_BYTES


def test_outputs_are_whole_and_show_the_source_upright(ran: Any) -> None:
    """Whatever came out opens, has the size that was reported, and is another picture than the source's bytes."""
    files, reports, outputs, _ = ran
    for key, data in outputs.items():
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            assert image.width * image.height == pytest.approx(reports[key].megapixels * 1e6), key
        assert data != files[key]


def test_nothing_of_the_source_but_its_pixels_is_published(ran: Any) -> None:
    """Byte for byte, and through a reader of metadata."""
    files, _, outputs, _ = ran
    told = {key for key, data in files.items() if SECRET in data} & outputs.keys()
    assert len(told) >= 8
    for key, data in outputs.items():
        for text in (SECRET, SECRET.decode().encode("utf-16-le"), SECRET.decode().encode("utf-16-be"), SECRET[:10]):
            assert text not in data, key
        assert data.count(b"\xff\xd8\xff") <= (1 if key.endswith("jpg") else 0) or not key.startswith("laden/"), key
        for trace in (b"Exif\0\0", b"<x:xmpmeta", b"ftypmp42", b"PK\x03\x04", b"<script", b"<?php", b"MPF\0"):
            assert trace not in data, (key, trace)
        with Image.open(io.BytesIO(data)) as image:
            assert not dict(image.getexif()) or image.format == "TIFF", key
            assert not image.getexif().get_ifd(0x8825), key
            assert not image.getexif().get_ifd(0x8769), key
            assert getattr(image, "n_frames", 1) == 1, key
            assert not {"comment", "xmp", "XML:com.adobe.xmp"} & set(image.info), key


def test_fuzz(decoder: Decoder, capsys: pytest.CaptureFixture[str]) -> None:
    """A mutation loop on the decoder: bits turned, pieces cut out, doubled and swapped between files."""
    from apf.errors import PhotoError  # noqa: PLC0415

    seeds = [data for _, data in whole()] + [
        saved(Image.new("L", (40, 30)), suffix) for suffix in ("jpg", "png", "tif")
    ]
    seed = random.randrange(2**32) if SOAK else 0
    random_ = random.Random(seed)
    ended = Counter[str]()
    deadline = time.monotonic() + FUZZ_S
    while time.monotonic() < deadline or ended["refused"] <= LEAST:
        data = mutated(random_, seeds)
        try:
            decoder.decode(data, LIMITS, ())
            ended["decoded"] += 1
        except PhotoError as error:
            assert "died" not in str(error), (seed, data[:200])
            ended["refused"] += 1
        except MemoryError:
            ended["out of memory"] += 1
    with capsys.disabled():
        print(f"\nfuzz: {ended.total()} files in {FUZZ_S:.0f} s, seed {seed}: {dict(ended)}")


def mutated(random_: random.Random, seeds: Sequence[bytes]) -> bytes:
    data = bytearray(random_.choice(seeds))
    for _ in range(random_.randint(1, 6)):
        place, length = random_.randrange(len(data) or 1), random_.randint(1, 64)
        match random_.randrange(5):
            case 0:
                data[place : place + 1] = bytes([random_.randrange(256)])
            case 1:
                del data[place : place + length]
            case 2:
                data[place:place] = data[place : place + length]
            case 3:
                other = random_.choice(seeds)
                start = random_.randrange(len(other))
                data[place : place + length] = other[start : start + length]
            case _:
                data[place : place + 4] = random_.choice([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\x80\0\0\0"])
    return bytes(data)
