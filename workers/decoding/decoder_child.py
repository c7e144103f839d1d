"""The program of decoders' processes: `python -m workers.decoding.decoder_child CONTROL`, started by
`workers.decoding.decoder_process`.

The template process loads the libraries and sees no photo, ever. At the worker's word it forks decoders, which find all
loaded, close the cage (`workers.decoding.sandbox`) around themselves and then take the worker's requests, one after the
other. So a new one costs milliseconds, and knows nothing of what another has seen.
"""

from __future__ import annotations

import codecs
import gc
import io
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import AvifImagePlugin, Image, ImageCms

from apf import photo as photos
from apf.errors import PhotoError
from apf.photo import Limits, Photo
from apf.photo.colour import srgb_profile
from workers.core.heap import keep_freed, trim_heap
from workers.decoding import decoder_answers, sandbox
from workers.decoding.decoder_protocol import COMMAND, DECODE, ENCODE, GREETING, HEADER, REPLY, REQUEST, START
from workers.decoding.shared_memory import read_all, write_all

#: Of a decoder: the standard three are /dev/null's.
CHANNEL = 3
#: An encoder keeps so much freed memory for the next photo, until it has nothing to do for so long: a JPEG of 48
#: megapixels takes 560 MiB to encode, and twice the time where they are new. One that decodes keeps none: whoever takes
#: it over is to find no earlier photo there.
KEPT_BYTES, IDLE_S = 3 * 2**28, 10


def main() -> None:
    """Serve as the template process, until the worker ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the worker, which finishes its shard first
        signal.signal(number, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[1]))
    load_libraries()
    trim_heap(every_s=0)  # glibc's function is looked up here, as well: in a cage it may not be
    gc.freeze()  # what is shared with decoders stays shared
    while True:
        message, files, _, _ = socket.recv_fds(control, COMMAND.size, 1)
        if len(message) < COMMAND.size:
            return  # the worker has ended
        what, number, threads, caged = COMMAND.unpack(message)
        if what == START:
            reply = _fork(control, files[0], number, threads, bool(caged))
        else:
            os.kill(number, signal.SIGKILL)  # one that has ended is there until it is waited for
            reply = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
        control.sendall(REPLY.pack(reply))


def _fork(control: socket.socket, channel: int, memory_bytes: int, threads: int, caged: bool) -> int:
    parent = os.getpid()
    child = os.fork()
    if child:
        os.close(channel)
        return child
    try:  # nothing of what the template process would do next is done here
        sandbox.end_with(parent)
        _keep_only(channel)
        control.detach()
        serve(_waking(socket.socket(fileno=CHANNEL)), lambda: _enclosed(memory_bytes, threads, caged))
    finally:
        os._exit(0)


def _waking(channel: socket.socket) -> socket.socket:
    """Have each read end after `IDLE_S`: in the cage there is no other way to wait so long and no longer."""
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", IDLE_S, 0))
    return channel


def _keep_only(channel: int) -> None:
    """Descriptors: the worker's, and /dev/null for what libraries print."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(channel, os.dup(null))  # out of the way, whatever its number
    found = os.dup(channel)
    for standard in range(3):
        os.dup2(null, standard)
    os.dup2(found, CHANNEL, inheritable=False)
    os.closerange(CHANNEL + 1, os.sysconf("SC_OPEN_MAX"))


def _enclosed(memory_bytes: int, threads: int, caged: bool) -> sandbox.Cage:
    sandbox.limit(memory_bytes, threads)
    return sandbox.enter() if caged else sandbox.Cage(lacks=("a cage: APF_DECODER_CAGE is off",))


def serve(channel: socket.socket, enclose: Callable[[], sandbox.Cage]) -> None:
    """Answer requests until the worker hangs up."""
    held = enclose()
    greeting = json.dumps({"holds": held.holds, "lacks": held.lacks}).encode()
    _send(channel, GREETING.pack(len(greeting)) + greeting)
    kept = False
    while True:
        try:
            message, files, _, _ = socket.recv_fds(channel, REQUEST.size, 2)
        except BlockingIOError:
            if kept:
                trim_heap(every_s=0)
            kept = False
            continue
        if len(message) < REQUEST.size:
            return
        serial, kind, head, size = REQUEST.unpack(message)
        if kind == ENCODE:
            kept = keep_freed(KEPT_BYTES)
        try:
            answer = _answer(serial, kind, head, size, files)
        except Exception as error:
            answer = decoder_answers.pack_fault(serial, error)
        finally:
            for file in files:
                os.close(file)
        _send(channel, answer)


def _send(channel: socket.socket, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(channel.fileno(), left) :]


def _answer(serial: int, kind: int, head: int, size: int, files: list[int]) -> bytes:
    asked: dict[str, Any] = json.loads(read_all(files[0], head))
    data = read_all(files[0], size, head)
    if kind == ENCODE:
        encoded = photos.encode(_photo(data, asked["photo"]), jpeg_floor_quality=asked["quality"])
        if len(encoded) > asked["room"]:
            raise MemoryError
        write_all(files[1], [encoded])
        return decoder_answers.pack_output(serial, len(encoded))
    limits = Limits(**asked["limits"])
    if kind == HEADER:
        return decoder_answers.pack_header(serial, photos.read_header(data, limits))
    photo = photos.decode(data, limits, keep_metadata=tuple(asked["keep"]))
    arrays = [array for array in (photo.pixels, photo.alpha) if array is not None]
    write_all(files[1], [np.ascontiguousarray(array).data for array in arrays])
    return decoder_answers.pack_photo(serial, photo)


def _photo(data: bytes, size: int) -> Photo:
    """Return the photo to encode with its pixels, as `workers.decoding.decoder_pool` lays them down."""
    view = memoryview(data)
    head = decoder_answers.read_head(bytes(view[: decoder_answers.SIZE]), 0, DECODE)
    everything = Limits(max_bytes=2**63, max_pixels=2**63)
    photo = decoder_answers.read_photo(head, bytes(view[decoder_answers.SIZE : size]), everything, None)
    return decoder_answers.with_pixels(photo, head, view[size:])


def load_libraries() -> None:
    """Load all that any photo needs, by one of each kind that goes in and out: in a cage nothing can be loaded."""
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # decoders run side by side; encoders say how many they want
    for codec in ("utf_16_le", "utf_16_be", "latin_1", "ascii"):
        codecs.lookup(codec)
    exif = Image.Exif()
    exif[0x8298] = "nobody"
    picture = Image.new("RGB", (16, 16), (200, 100, 50))
    with _silenced():
        for kind, mode, options in _SAMPLES:
            buffer = io.BytesIO()
            try:
                picture.convert(mode).save(buffer, kind, exif=exif, **options)
                photos.encode(photos.decode(buffer.getvalue(), keep_metadata=("Copyright",)))
            except (OSError, KeyError, PhotoError):  # a codec that is not here
                continue
        gc.collect()  # what failed says so when it is cleared away
    profile = ImageCms.ImageCmsProfile(io.BytesIO(srgb_profile()))
    ImageCms.profileToProfile(picture, profile, profile)
    sandbox.prepare()


@contextmanager
def _silenced() -> Iterator[None]:
    """Drop what libraries print of the samples."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


_SAMPLES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("JPEG", "RGB", {"icc_profile": srgb_profile()}),
    ("JPEG", "L", {"progressive": True}),
    ("JPEG", "CMYK", {"icc_profile": None}),
    ("PNG", "RGBA", {"icc_profile": srgb_profile()}),
    ("PNG", "P", {}),
    ("WEBP", "RGB", {}),
    ("WEBP", "RGBA", {"lossless": True}),
    ("HEIF", "RGB", {}),
    ("AVIF", "RGB", {}),
    *(("TIFF", "RGB", {"compression": name}) for name in ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg")),
    *(("TIFF", "RGB", {"compression": name}) for name in ("zstd", "lzma")),
    ("TIFF", "1", {"compression": "group4"}),
)


if __name__ == "__main__":
    main()
