"""Decoding and encoding in caged processes: a photo that crashes its decoder, takes it over, or never ends, costs
itself and nothing else.

Each process is limited in time and memory, has no secret variables, and can do nothing but compute
(`workers.decoding.sandbox`). Nothing that it answers is trusted (`workers.decoding.decoder_answers`). None serves two
tenants; those that encode never decode.
"""

from __future__ import annotations

import json
import logging
import queue
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from apf.errors import CorruptPhoto, DecodingTimeout
from workers.core.log_context import current_context
from workers.decoding.decoder_process import DecoderProcess, Ended, ForkServer, Request
from workers.decoding.decoder_protocol import DECODE, ENCODE, FAULT, HEADER, BadAnswer
from workers.decoding.sandbox import Cage, Wanted
from workers.decoding.shared_memory import SharedPixels, shared_pixels
from workers.errors import SettingsError
from workers.telemetry import metrics

if TYPE_CHECKING:
    from apf.photo import Header, Limits, Photo
    from apf.photo.decode import Pixels
    from workers.decoding.decoder_answers import Head

log = logging.getLogger(__name__)

#: A decoder that died could have been killed by the system for its neighbours' memory, or spoilt by the photo before:
#: try again in a new one, then give up.
TRIES = 3

#: RGB and alpha.
BYTES_PER_PIXEL = 4
#: Encoding may take so much longer, in seconds a megapixel: a PNG takes ten times its decoding.
ENCODE_S_PER_MEGAPIXEL = 3.0
#: Room for what an encoder makes of a pixel, and of none: noise at the finest quality takes less.
ENCODED_BYTES_PER_PIXEL, ENCODED_BYTES = 16, 32 * 2**20

Result = TypeVar("Result")
#: Parses an answer's header, the bytes behind it and the memory that it was lent.
Reading = Callable[["Head", bytes, SharedPixels], Result]
#: Decoders that are idle, and None for each that is not made yet.
_Slots = queue.LifoQueue[DecoderProcess | None]


class Decoder:
    """`apf.photo` at a distance. Safe to share between threads; starts with the first photo."""

    def __init__(
        self, *, processes: int, limit_s: float, memory_bytes: int, encoders: int = 1, cage: Wanted = "best"
    ) -> None:
        self._wanted = cage
        self._limit_s = limit_s
        self._fork_server = ForkServer(memory_bytes, caged=cage != "off")
        self._serials = count(1)
        #: The one that was used last comes first, so that no more are made than work side by side.
        self._decoders, self._encoders = _slots(processes), _slots(encoders)

    def start(self) -> None:
        """Have the libraries loaded, without waiting for it; else the first photo does."""
        self._fork_server.start()

    def check(self) -> Cage:
        """Return what holds a decoder.

        Raises:
            SettingsError: the cage is required, and this machine lacks some of it.
        """
        with self._process(self._decoders) as process:
            return process.cage

    def header(self, data: bytes, limits: Limits) -> Header:
        """As `apf.photo.read_header`."""
        from workers.decoding.decoder_answers import read_size  # noqa: PLC0415  image libraries load with the first photo

        asked = {"limits": asdict(limits)}
        return self._ask(self._decoders, HEADER, asked, [data], 1, lambda head, *_: read_size(head, limits))

    def decode(self, data: bytes, limits: Limits, keep_metadata: tuple[str, ...]) -> Photo:
        """As `apf.photo.decode`.

        Raises:
            CorruptPhoto: besides, that decoding took too long or killed its process each time.
            MemoryError: it needs more than a decoder may have.
        """
        from workers.decoding.decoder_answers import read_photo, with_pixels  # noqa: PLC0415  as above

        def read(head: Head, body: bytes, memory: SharedPixels) -> Photo:
            photo = read_photo(head, body, limits, keep_metadata)
            return with_pixels(photo, head, memory.take(head.output))

        asked = {"limits": asdict(limits), "keep": keep_metadata}
        return self._ask(self._decoders, DECODE, asked, [data], BYTES_PER_PIXEL * limits.max_pixels, read)

    def encode(self, photo: Photo, pixels: Pixels, *, jpeg_floor_quality: int) -> bytes:
        """As `apf.photo.encode`; raises besides as `decode`."""
        from numpy import ascontiguousarray as contiguous  # noqa: PLC0415  as above

        from workers.decoding.decoder_answers import pack_photo  # noqa: PLC0415  as above

        head = pack_photo(0, photo)
        arrays = [contiguous(array).data for array in (pixels, photo.alpha) if array is not None]
        room = ENCODED_BYTES + ENCODED_BYTES_PER_PIXEL * photo.header.pixels
        asked = {"photo": len(head), "quality": jpeg_floor_quality, "room": room}
        limit_s = self._limit_s + ENCODE_S_PER_MEGAPIXEL * photo.header.pixels / 1e6

        def read(head: Head, _: bytes, memory: SharedPixels) -> bytes:
            return memory.read(head.output)

        return self._ask(self._encoders, ENCODE, asked, [head, *arrays], room, read, limit_s)

    def close(self) -> None:
        """End the processes; photos that are being decoded are tried in new ones."""
        for slots in (self._decoders, self._encoders):
            idle = [slots.get_nowait() for _ in range(slots.qsize())]
            for process in idle:
                if process:
                    process.end()
                slots.put(None)
        self._fork_server.close()

    def _ask(
        self,
        slots: _Slots,
        kind: int,
        asked: dict[str, Any],
        parts: Sequence[bytes | memoryview],
        room: int,
        read: Reading[Result],
        limit_s: float | None = None,
    ) -> Result:
        limit_s = limit_s or self._limit_s
        head = json.dumps(asked).encode()
        what = "encoding" if kind == ENCODE else "decoding"
        with shared_pixels(len(head) + sum(memoryview(part).nbytes for part in parts)) as question:
            question.fill([head, *parts])
            question.seal()
            for _attempt in range(TRIES):
                with shared_pixels(room) as memory:
                    files = [question.file, memory.file]
                    request = Request(next(self._serials), kind, len(head), question.size - len(head), files)
                    try:
                        with self._process(slots) as process:
                            answer = _answer(process, request, memory, read, time.monotonic() + limit_s)
                    except TimeoutError as error:
                        metrics.add("apf_decoder_failures_total", reason="timeout")
                        raise DecodingTimeout(
                            f"{what} took longer than {limit_s:g} s: save it again, or raise APF_DECODE_LIMIT_S"
                        ) from error
                    except (Ended, BadAnswer) as error:
                        metrics.add("apf_decoder_failures_total", reason=_reason(error))
                        log.warning("%s", error)
                        continue
                if not isinstance(answer, Exception):
                    return answer
                try:
                    raise answer
                finally:
                    del answer  # else it and this frame hold each other, and the photo's bytes with them
        raise CorruptPhoto(f"its decoder died {TRIES} times over it: the file is damaged or malicious, save it again")

    @contextmanager
    def _process(self, slots: _Slots) -> Iterator[DecoderProcess]:
        """One that is of this tenant, and idle; it is kept for the next photo where the block ends well."""
        tenant = current_context().get("tenant")
        process = slots.get()
        try:
            if process and process.tenant != tenant:
                process.end()
                process = None
            process = process or self._new(tenant)
            yield process
        except BaseException:
            if process:
                process.end()
                process = None
            raise
        finally:
            slots.put(process)

    def _new(self, tenant: object) -> DecoderProcess:
        process = self._fork_server.make(tenant)
        metrics.put("apf_decoder_cage", 1, held=process.cage.held)
        try:
            process.cage.check(self._wanted)
        except SettingsError:
            process.end()
            raise
        return process


def _answer(
    process: DecoderProcess, request: Request, memory: SharedPixels, read: Reading[Result], deadline: float
) -> Result | Exception:
    """Return what the decoder makes of the request, or what it raised; raises TimeoutError, Ended and BadAnswer."""
    from workers.decoding import decoder_answers  # noqa: PLC0415  image libraries load with the first photo

    process.send(request)
    head = decoder_answers.read_head(process.read(decoder_answers.SIZE, deadline), request.serial, request.kind)
    if head.output > memory.size:
        raise BadAnswer(f"{head.output} bytes where {memory.size} were lent")
    body = process.read(head.body, deadline)
    if process.says_more:
        raise BadAnswer("it goes on after its end")
    if head.kind == FAULT:
        return decoder_answers.read_fault(head, body)
    memory.seal()
    return read(head, body, memory)


def _reason(error: Ended | BadAnswer) -> str:
    if isinstance(error, BadAnswer):
        return "invalid"
    return "caged" if error.status == -signal.SIGSYS else "died"


def _slots(count: int) -> _Slots:
    slots: _Slots = queue.LifoQueue()
    for _ in range(count):
        slots.put(None)
    return slots
