"""The worker's reading of what decoders answer, fuzzed as somebody would write it who has taken one over."""

from __future__ import annotations

import io
import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import psutil
import pytest
from hypothesis import strategies as st
from PIL import Image

from apf.errors import PhotoError
from apf.photo import Limits, Photo, decode
from apf.photo.colour import srgb_profile
from apf.photo.icc import is_own
from workers.decoding import decoder_answers
from workers.decoding.decoder_pool import _answer
from workers.decoding.decoder_process import DecoderProcess, Ended, Request
from workers.decoding.decoder_protocol import DECODE, ENCODE, FAULT, GREETING, HEADER, BadAnswer
from workers.decoding.shared_memory import shared_pixels

SOAK = os.environ.get("APF_SOAK") == "1"
#: Seconds of fuzzing.
FUZZ_S = float(os.environ.get("APF_FUZZ_S", "600" if SOAK else "3"))
LIMITS = Limits(max_bytes=10**6, max_pixels=10_000)
ROOM = 4 * LIMITS.max_pixels
SERIAL = 7
#: A false answer may cost the worker no more than this at once: texts, profile and tags at their largest, and copies.
MOST_BYTES = 256 * 2**20

pytestmark = pytest.mark.timeout(300 + 2 * int(FUZZ_S))


def saved(kind: str, mode: str = "RGB", **options: Any) -> Photo:
    buffer = io.BytesIO()
    Image.new(mode, (40, 30), None).save(buffer, kind, **options)
    return decode(buffer.getvalue())


PHOTOS = [
    saved("JPEG", icc_profile=srgb_profile()),
    saved("JPEG", "L", progressive=True),
    replace(
        saved("PNG", "RGBA"), notes=("one", "two"), coding=replace(saved("PNG").coding, png_colour=((b"sRGB", b"\0"),))
    ),
    saved("TIFF", compression="tiff_lzw"),
    saved("WEBP"),
    saved("AVIF"),
]


@st.composite
def written(draw: st.DrawFn) -> bytes:
    """What a hostile decoder writes: whole answers with numbers changed, cut, doubled, or any bytes."""
    kind = draw(st.sampled_from(["photo", "fault", "numbers", "bytes"]))
    if kind == "bytes":
        return draw(st.binary(max_size=300))
    if kind == "fault":
        return decoder_answers.pack_fault(
            draw(st.integers(0, 9)), draw(st.sampled_from([ValueError("x\x1b[31m"), KeyError(1)]))
        )
    answer = decoder_answers.pack_photo(
        draw(st.sampled_from([SERIAL, SERIAL, SERIAL, 6])), draw(st.sampled_from(PHOTOS))
    )
    head, body = (
        decoder_answers.Head(*decoder_answers._FORM.unpack(answer[: decoder_answers.SIZE])),
        answer[decoder_answers.SIZE :],
    )
    for name in draw(st.lists(st.sampled_from(head._fields), max_size=3)):
        most = {"Q": 2**64, "I": 2**32, "H": 2**16, "B": 2**8}[FORMS[name]]
        near = getattr(head, name)
        value = draw(st.sampled_from([0, 1, near + 1, near - 1, most - 1, most // 2]) | st.integers(0, most - 1))
        head = head._replace(**{name: value % most})
    if kind == "numbers":
        body = draw(st.binary(max_size=200)) + body
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(len(body) - 1, 0)))
        body = body[:at] + draw(st.binary(max_size=4)) + body[at + draw(st.integers(0, 4)) :]
    return decoder_answers._FORM.pack(*head) + body


#: The size of each number of a header.
FORMS = dict(zip(decoder_answers.Head._fields, "QBBHIIQBBBBBBHHQIII", strict=True))


class Hostile:
    """A decoder's end of the channel, which writes what it is told, in pieces, and goes on writing to the memory."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        self.theirs.sendall(GREETING.pack(26) + b'{"holds": [], "lacks": []}')
        self.process = DecoderProcess(ours, None, lambda: -signal.SIGKILL)

    def write(self, data: bytes, pieces: int, hang_up: bool) -> None:
        _, files, _, _ = socket.recv_fds(self.theirs, 64, 2)
        step = max(1, len(data) // pieces)
        try:
            for at in range(0, len(data), step):
                os.pwrite(files[-1], bytes([at % 251]) * 64, at % ROOM)
                self.theirs.sendall(data[at : at + step])
            if hang_up:
                self.theirs.close()
            for _ in range(20):
                os.pwrite(files[-1], b"late", 0)  # sealed, once it is read
        except OSError:
            pass
        finally:
            for file in files:
                os.close(file)


def ask(kind: int, data: bytes, pieces: int, hang_up: bool) -> Photo | Exception | object:
    hostile = Hostile()
    writer = threading.Thread(target=hostile.write, args=(data, pieces, hang_up))
    writer.start()
    try:
        with shared_pixels(1) as question, shared_pixels(ROOM) as memory:

            def read(head: decoder_answers.Head, body: bytes, memory: Any) -> Any:
                if kind == HEADER:
                    return decoder_answers.read_size(head, LIMITS)
                if kind == ENCODE:
                    return memory.read(head.output)
                photo = decoder_answers.read_photo(head, body, LIMITS, ())
                return decoder_answers.with_pixels(photo, head, memory.take(head.output))

            request = Request(SERIAL, kind, 0, 1, [question.file, memory.file])
            answer = _answer(hostile.process, request, memory, read, time.monotonic() + 0.1)
            if isinstance(answer, Photo):
                unchanged = answer.pixels.copy()
                writer.join()
                np.testing.assert_array_equal(answer.pixels, unchanged)
            return answer
    finally:
        hostile.process.end()
        writer.join()
        hostile.theirs.close()


ended = Counter[str]()


@hypothesis.given(
    kind=st.sampled_from([DECODE, DECODE, DECODE, HEADER, ENCODE]),
    data=written(),
    pieces=st.integers(1, 9),
    hang_up=st.booleans(),
)
@hypothesis.settings(max_examples=300, database=None, suppress_health_check=list(hypothesis.HealthCheck))
def holds(kind: int, data: bytes, pieces: int, hang_up: bool) -> None:
    """It is refused, or gives what a decoder of ours could have given."""
    try:
        answer = ask(kind, data, pieces, hang_up)
    except (BadAnswer, Ended, TimeoutError) as error:
        ended[type(error).__name__] += 1
        return
    ended[type(answer).__name__] += 1
    if isinstance(answer, Exception):
        assert isinstance(answer, PhotoError | MemoryError | ValueError | decoder_answers.Unforeseen)
        assert str(answer).isprintable()
    if isinstance(answer, Photo):
        check(answer)


def check(photo: Photo) -> None:
    """All that the rest of the worker relies on."""
    assert photo.header.pixels <= LIMITS.max_pixels
    assert photo.pixels.shape == (photo.header.height, photo.header.width, 3)
    assert photo.alpha is None or photo.alpha.shape == photo.pixels.shape[:2]
    assert photo.icc is None or is_own(photo.icc)
    assert photo.exif is None
    assert all(note.isprintable() for note in photo.notes)
    assert photo.grey or not photo.single_channel
    assert (photo.coding.jpeg is not None) == (photo.header.format == "JPEG")
    assert photo.coding.source_bytes <= LIMITS.max_bytes


@pytest.fixture
def _watched() -> Iterator[None]:
    """What it costs is bounded: neither memory nor descriptors nor mappings grow."""
    me = psutil.Process()
    before, files = me.memory_info().rss, me.num_fds()
    yield
    assert me.memory_info().rss - before < MOST_BYTES
    assert me.num_fds() <= files
    assert "apf-photo" not in Path("/proc/self/maps").read_text()


@pytest.mark.usefixtures("_watched")
def test_answers_are_refused_or_fit(capsys: pytest.CaptureFixture[str]) -> None:
    """Ten minutes of hostile answers in `make soak`, some seconds here: each is refused, or one that could be."""
    chosen, deadline = random.randrange(2**32) if SOAK else 0, time.monotonic() + FUZZ_S
    ended.clear()
    # However slow the machine is: enough of both.
    while time.monotonic() < deadline or ended["BadAnswer"] <= 20 or ended["Photo"] <= 5:
        hypothesis.seed(chosen)(holds)()
        chosen += 1
    with capsys.disabled():
        print(f"\nanswers: {ended.total()} in {FUZZ_S:.0f} s, up to seed {chosen - 1}: {dict(ended)}")
    assert FAULT not in (DECODE, HEADER, ENCODE)


@pytest.mark.parametrize("photo", PHOTOS, ids=lambda photo: photo.header.format)
def test_a_decoders_own_answer_comes_through(photo: Photo) -> None:
    """What is packed is read as it was, but for the pixels, which come through memory."""
    answer = decoder_answers.pack_photo(SERIAL, photo)
    head = decoder_answers.read_head(answer[: decoder_answers.SIZE], SERIAL, DECODE)
    there = decoder_answers.read_photo(head, answer[decoder_answers.SIZE :], Limits(), ())
    assert head.body == len(answer) - decoder_answers.SIZE
    assert replace(there, pixels=0, alpha=None).__dict__ == replace(photo, pixels=0, alpha=None).__dict__
