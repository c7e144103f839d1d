"""A decoder's answer: a header of fixed size, then as many bytes as it says. Nothing in it is trusted.

A decoder that was taken over writes anything. So every field is checked by itself and against what was asked,
texts are cleaned, and colour profiles and EXIF tags are read once more, as those of a file are. Pixels never come this
way, but in memory that the worker has lent and then sealed (`workers.decoding.shared_memory`).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from apf.errors import (
    CameraRaw,
    CorruptPhoto,
    PhotoError,
    PhotoTooLarge,
    SeveralPictures,
    UnknownColours,
    UnsupportedPhoto,
)
from apf.photo import Header, Photo
from apf.photo.coding import CHROMAS, LOSSLESS_TIFF, PNG_COLOUR, Coding, known_primaries
from apf.photo.header import CONTENT_TYPES
from apf.photo.icc import is_own
from apf.photo.jpeg import JpegCoding
from apf.photo.metadata import same_exif
from workers.decoding.decoder_protocol import DECODE, ENCODE, FAULT, HEADER, BadAnswer

if TYPE_CHECKING:
    from apf.photo import Limits

#: The errors of a decoder, by number: the first kind that fits. Anything else is the last.
FAULTS: tuple[type[Exception], ...] = (
    CameraRaw,
    SeveralPictures,
    UnknownColours,
    CorruptPhoto,
    UnsupportedPhoto,
    PhotoTooLarge,
    PhotoError,
    MemoryError,
    ValueError,
)
UNFORESEEN = len(FAULTS)

GREY, SINGLE, ALPHA, PROGRESSIVE, LOSSLESS, PRIMARIES = (1 << bit for bit in range(6))
_ALL_FLAGS = (1 << 6) - 1

#: Most bytes of a profile (as in `apf.photo.icc`), of kept EXIF tags with their directories, and of all texts.
MAX_ICC, MAX_EXIF, MAX_TEXT = 16 * 2**20, 2**18, 2**16

_TABLE = struct.Struct("<64H")
_FORM = struct.Struct("<QBBHIIQ6B2HQ3I")
SIZE = _FORM.size

FORMATS = tuple(CONTENT_TYPES)
_COMPRESSIONS = tuple(sorted(LOSSLESS_TIFF))
_CHUNKS = tuple(sorted(PNG_COLOUR))


class Unforeseen(RuntimeError):
    """Raised for an unexpected error of a decoder: the name and text of its exception."""


class Head(NamedTuple):
    """The fixed part. Fields that a kind of answer does not use are 0."""

    #: Of the request.
    serial: int
    kind: int
    #: Number of the photo's format; of a fault, its number in FAULTS.
    what: int
    flags: int = 0
    width: int = 0
    height: int = 0
    source_bytes: int = 0
    subsampling: int = 0
    #: How many JPEG tables, and PNG chunks, follow.
    tables: int = 0
    chunks: int = 0
    chroma: int = 0
    compression: int = 0
    predictor: int = 0
    primaries: int = 0
    transfer: int = 0
    #: Bytes in the lent memory.
    output: int = 0
    #: Bytes that follow: of the profile, of the EXIF block, of texts.
    icc: int = 0
    exif: int = 0
    text: int = 0

    @property
    def body(self) -> int:
        """Bytes that follow at most; each number is bounded, so this is."""
        return self.tables * _TABLE.size + self.chunks * (1 + _LONGEST_CHUNK) + self.icc + self.exif + self.text


_LONGEST_CHUNK = max(struct.calcsize(form) for form in PNG_COLOUR.values())


def pack_fault(serial: int, error: BaseException) -> bytes:
    """Return a fault's answer. In the decoder."""
    number = next((number for number, kind in enumerate(FAULTS) if isinstance(error, kind)), UNFORESEEN)
    text = f"{type(error).__name__}: {error}" if number == UNFORESEEN else str(error)
    words = text.encode("utf-8", "replace")[:MAX_TEXT]
    return _FORM.pack(*Head(serial, FAULT, number, text=len(words))) + words


def pack_header(serial: int, header: Header) -> bytes:
    """Return the answer of a header. In the decoder."""
    return _FORM.pack(*Head(serial, HEADER, FORMATS.index(header.format), 0, header.width, header.height))


def pack_output(serial: int, size: int) -> bytes:
    """Return the answer of an encoder: how much it wrote into the lent memory."""
    return _FORM.pack(*Head(serial, ENCODE, 0, output=size))


def pack_photo(serial: int, photo: Photo) -> bytes:
    """Return a photo without its pixels: a decoder's answer, and what an encoder is given."""
    coding, jpeg = photo.coding, photo.coding.jpeg
    tables = b"".join(_TABLE.pack(*table) for table in jpeg.tables) if jpeg else b""
    chunks = b"".join(
        bytes([_CHUNKS.index(kind)]) + body.ljust(_LONGEST_CHUNK, b"\0") for kind, body in coding.png_colour
    )
    text = "\n".join(photo.notes).encode("utf-8", "replace")[:MAX_TEXT]
    primaries, transfer = coding.primaries or (0, 0)
    flags = GREY * photo.grey | SINGLE * photo.single_channel | ALPHA * (photo.alpha is not None)
    flags |= LOSSLESS * coding.webp_lossless | PRIMARIES * (coding.primaries is not None)
    flags |= PROGRESSIVE * bool(jpeg and jpeg.progressive)
    head = Head(
        serial,
        DECODE,
        FORMATS.index(photo.header.format),
        flags,
        photo.header.width,
        photo.header.height,
        max(coding.source_bytes, 0),
        jpeg.subsampling if jpeg else 0,
        len(jpeg.tables) if jpeg else 0,
        len(coding.png_colour),
        CHROMAS.index(coding.chroma),
        _COMPRESSIONS.index(coding.tiff_compression),
        coding.tiff_predictor,
        primaries,
        transfer,
        photo.header.pixels * (4 if photo.alpha is not None else 3),
        len(photo.icc or b""),
        len(photo.exif or b""),
        len(text),
    )
    return b"".join((_FORM.pack(*head), tables, chunks, photo.icc or b"", photo.exif or b"", text))


def read_head(data: bytes, serial: int, expected: int) -> Head:
    """Return the fixed part, with every number within its own bounds.

    Args:
        expected: the kind that answers the request; a fault always may.

    Raises:
        BadAnswer: it is another kind, the answer of another request, or has a number out of bounds.
    """
    if len(data) != SIZE:
        raise BadAnswer(f"a header of {len(data)} bytes")
    head = Head(*_FORM.unpack(data))
    if head.serial != serial or head.kind not in (expected, FAULT):
        raise BadAnswer(f"kind {head.kind} of request {head.serial}, where {expected} of {serial} was asked")
    _within(head.text, MAX_TEXT, "text")
    used = {"text": head.text}
    if head.kind == FAULT:
        _within(head.what, UNFORESEEN, "fault")
    elif head.kind == ENCODE:
        used = {"output": head.output}
    else:
        _within(head.what, len(FORMATS) - 1, "format")
        used = {"width": head.width, "height": head.height}
    if head.kind == DECODE:
        _check_photo(head)
    elif head != Head(head.serial, head.kind, head.what, **used):
        raise BadAnswer("numbers that this kind of answer does not have")
    return head


def _check_photo(head: Head) -> None:
    _within(head.flags, _ALL_FLAGS, "flags")
    for number, most, name in (
        (head.subsampling, 2, "subsampling"),
        (head.tables, 3, "tables"),
        (head.chunks, len(_CHUNKS), "chunks"),
        (head.chroma, len(CHROMAS) - 1, "chroma"),
        (head.compression, len(_COMPRESSIONS) - 1, "compression"),
        (head.predictor, 2, "predictor"),
        (head.icc, MAX_ICC, "profile"),
        (head.exif, MAX_EXIF, "EXIF"),
    ):
        _within(number, most, name)
    if head.flags & SINGLE and not head.flags & GREY:
        raise BadAnswer("one grey channel, and coloured")
    if head.output != head.width * head.height * (4 if head.flags & ALPHA else 3):
        raise BadAnswer(f"{head.output} bytes of pixels for {head.width} x {head.height}")


def _within(number: int, most: int, name: str) -> None:
    if number > most:
        raise BadAnswer(f"{name}: {number} is over {most}")


def read_fault(head: Head, body: bytes) -> Exception:
    """Return what the decoder raised, with its text cleaned."""
    text = clean(body)
    return Unforeseen(text) if head.what == UNFORESEEN else FAULTS[head.what](text)


def read_size(head: Head, limits: Limits) -> Header:
    """Return the photo's format and size; raises BadAnswer where they are over the limits."""
    if not (head.width and head.height and head.width * head.height <= limits.max_pixels):
        raise BadAnswer(f"a size of {head.width} x {head.height}")
    return Header(FORMATS[head.what], head.width, head.height)


def read_photo(head: Head, body: bytes, limits: Limits, keep_metadata: Sequence[str] | None) -> Photo:
    """Return a photo that has no pixels yet, from a header that `read_head` took and the bytes behind it.

    Args:
        keep_metadata: the tags that were asked for; None where the bytes are the worker's own.

    Raises:
        BadAnswer: some part is not as a decoder of ours writes it.
    """
    header = read_size(head, limits)
    if len(body) != head.body or head.source_bytes > limits.max_bytes:
        raise BadAnswer(f"{len(body)} bytes behind the header, and {head.source_bytes} of the source")
    tables, chunks, icc, exif, text = _cut(
        body, (head.tables * _TABLE.size, head.chunks * (1 + _LONGEST_CHUNK), head.icc, head.exif, head.text)
    )
    notes = tuple(clean(note) for note in text.split(b"\n")) if text else ()
    if keep_metadata is not None:
        _check_metadata(icc, exif, keep_metadata)
    return Photo(
        pixels=np.zeros((0, 0, 3), np.uint8),
        grey=bool(head.flags & GREY),
        header=header,
        alpha=None,
        icc=icc or None,
        exif=exif or None,
        single_channel=bool(head.flags & SINGLE),
        coding=_coding(head, header, tables, chunks),
        notes=notes,
    )


def with_pixels(photo: Photo, head: Head, memory: bytes | bytearray | memoryview | mmap.mmap) -> Photo:
    """Return the photo with what lies in the memory, which it holds as long as it lives: RGB, then alpha where it has
    one.
    """
    height, width = photo.header.height, photo.header.width
    pixels = np.frombuffer(memory, np.uint8, height * width * 3).reshape(height, width, 3)
    alpha = None
    if head.flags & ALPHA:
        alpha = np.frombuffer(memory, np.uint8, height * width, height * width * 3).reshape(height, width)
    return replace(photo, pixels=pixels, alpha=alpha)


def _check_metadata(icc: bytes, exif: bytes, keep_metadata: Sequence[str]) -> None:
    """They could carry anything into what is published: so they are read as strangers' once more."""
    if icc and not is_own(icc):
        raise BadAnswer("a colour profile that is not of our own writing")
    if exif and not same_exif(exif, tuple(keep_metadata)):
        raise BadAnswer("EXIF tags that were not asked for")


def _coding(head: Head, header: Header, tables: bytes, chunks: bytes) -> Coding:
    jpeg = None
    if header.format == "JPEG":
        found = tuple(_TABLE.iter_unpack(tables))
        jpeg = JpegCoding(tables=found, subsampling=head.subsampling, progressive=bool(head.flags & PROGRESSIVE))
    primaries = None
    if head.flags & PRIMARIES:
        primaries = known_primaries(head.primaries, head.transfer)
        if primaries is None:
            raise BadAnswer(f"colour primaries {head.primaries}, {head.transfer}")
    if not head.predictor:
        raise BadAnswer("predictor 0")
    return Coding(
        source_bytes=head.source_bytes,
        jpeg=jpeg,
        webp_lossless=bool(head.flags & LOSSLESS),
        chroma=CHROMAS[head.chroma],
        primaries=primaries,
        tiff_compression=_COMPRESSIONS[head.compression],
        tiff_predictor=head.predictor,
        png_colour=tuple(_chunks(chunks)),
    )


def _chunks(data: bytes) -> Iterable[tuple[bytes, bytes]]:
    seen = set()
    for at in range(0, len(data), 1 + _LONGEST_CHUNK):
        if data[at] >= len(_CHUNKS) or data[at] in seen:
            raise BadAnswer(f"a PNG chunk of kind {data[at]}")
        seen.add(data[at])
        kind = _CHUNKS[data[at]]
        size = struct.calcsize(PNG_COLOUR[kind])
        yield kind, data[at + 1 : at + 1 + size]


def _cut(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    parts, at = [], 0
    for size in sizes:
        parts.append(data[at : at + size])
        at += size
    return parts


def clean(text: bytes) -> str:
    """Return a line that may stand in a log or a report: no control characters, no invalid bytes."""
    shown = text.decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in shown)
