"""EXIF as raw tags: their bytes are read and written again, whatever encoding their texts have."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

IFD0, EXIF, GPS, INTEROP = 0, 0x8769, 0x8825, 0xA005
#: Directories, each with the one that points to it.
_POINTED_FROM = {EXIF: IFD0, GPS: IFD0, INTEROP: EXIF}

PREFIX = b"Exif\0\0"

#: Of each type of value: its size, and the size of the numbers that it is made of.
_TYPES = {1: (1, 1), 2: (1, 1), 3: (2, 2), 4: (4, 4), 5: (8, 4), 6: (1, 1), 7: (1, 1), 8: (2, 2), 9: (4, 4), 10: (8, 4),
          11: (4, 4), 12: (8, 8), 13: (4, 4), 129: (1, 1)}  # fmt: skip
_LONG = 4


@dataclass(frozen=True)
class Tag:
    """One value with its place."""

    directory: int
    code: int
    #: The type of the value, as TIFF numbers them.
    kind: int
    value: bytes


@dataclass
class Tags:
    """All tags of a block that can be read, by directory and code."""

    #: As `struct` writes it.
    order: str = ">"
    found: dict[tuple[int, int], Tag] = field(default_factory=dict)
    #: Tags whose values cannot be read, with the reason.
    broken: dict[tuple[int, int], str] = field(default_factory=dict)

    def number(self, directory: int, code: int) -> int | None:
        """Return the value of a tag that is one SHORT, LONG or IFD."""
        tag = self.found.get((directory, code))
        if tag is None or tag.kind not in (3, _LONG, 13) or len(tag.value) != _TYPES[tag.kind][0]:
            return None
        return int.from_bytes(tag.value, "big" if self.order == ">" else "little")


def read_tags(data: bytes) -> Tags:
    """Return the tags of an EXIF block, or of a TIFF file's first directory and those that it points to. Raises
    nothing.
    """
    while data.startswith(PREFIX):
        data = data[len(PREFIX) :]
    tags = Tags(">" if data[:2] == b"MM" else "<")
    if data[:2] not in (b"MM", b"II") or len(data) < 8:
        return tags
    big = int.from_bytes(data[2:4], "big" if tags.order == ">" else "little") == 43  # BigTIFF
    try:
        (start,) = struct.unpack_from(tags.order + ("Q" if big else "L"), data, 8 if big else 4)
    except struct.error:
        return tags
    _read_directory(data, tags, IFD0, start, big)
    for directory, parent in _POINTED_FROM.items():
        if (at := tags.number(parent, directory)) is not None:
            _read_directory(data, tags, directory, at, big)
    return tags


def write_tags(order: str, tags: Iterable[Tag]) -> bytes:
    """Return an EXIF block of these tags alone."""
    head = (b"MM" if order == ">" else b"II") + struct.pack(order + "HL", 42, 8)
    return PREFIX + head + _directories(order, tags, [], at=8)


def into_tiff(data: bytes, tags: Tags) -> bytes:
    """Return a TIFF file with these tags besides its own, in its own byte order; of two with one code the new one
    counts.
    """
    order = ">" if data[:2] == b"MM" else "<"
    swap = order != tags.order
    kept = [tag for tag in tags.found.values() if tag.code not in _POINTED_FROM]
    new = [replace(tag, value=_swapped(tag)) if swap else tag for tag in kept]
    (first,) = struct.unpack_from(order + "L", data, 4)
    (count,) = struct.unpack_from(order + "H", data, first)
    own = [data[first + 2 + 12 * number : first + 14 + 12 * number] for number in range(count)]
    at = len(data) + len(data) % 2
    return data[:4] + struct.pack(order + "L", at) + data[8:].ljust(at - 8, b"\0") + _directories(order, new, own, at)


def _read_directory(data: bytes, tags: Tags, directory: int, at: int, big: bool) -> None:
    head, entry, room = ("Q", "HHQ", 8) if big else ("H", "HHL", 4)
    try:
        (count,) = struct.unpack_from(tags.order + head, data, at)
        at += struct.calcsize("=" + head)
        for _ in range(min(count, 0xFFFF)):
            code, kind, values = struct.unpack_from(tags.order + entry, data, at)
            at += struct.calcsize("=" + entry)
            _read_value(data, tags, (directory, code), kind, values, at, room)
            at += room
    except (struct.error, OverflowError):  # the directory ends with the file
        return


def _read_value(data: bytes, tags: Tags, place: tuple[int, int], kind: int, values: int, at: int, room: int) -> None:
    if place in tags.found or place in tags.broken:
        return
    if kind not in _TYPES:
        tags.broken[place] = f"its type {kind} is unknown"
        return
    size = values * _TYPES[kind][0]
    if size > room:
        (at,) = struct.unpack_from(tags.order + ("Q" if room == 8 else "L"), data, at)
    value = bytes(data[at : at + size])
    if len(value) == size:
        tags.found[place] = Tag(*place, kind, value)
    else:
        tags.broken[place] = "its value lies outside the file"


def _directories(order: str, tags: Iterable[Tag], own: list[bytes], at: int) -> bytes:
    """IFD0, to lie at `at`, then the others. `own` are further entries of IFD0, as they stand in a file."""
    entries: dict[int, list[tuple[int, int, bytes]]] = {IFD0: [], EXIF: [], GPS: []}
    for tag in tags:
        entries[tag.directory].append((tag.code, tag.kind, tag.value))
    pointers = [directory for directory in (EXIF, GPS) if entries[directory]]
    new = {code for code, _, _ in entries[IFD0]} | set(pointers)
    own = [entry for entry in own if struct.unpack_from(order + "H", entry)[0] not in new]

    def first(starts: list[int]) -> bytes:
        pointing = [
            (code, _LONG, struct.pack(order + "L", start)) for code, start in zip(pointers, starts, strict=True)
        ]
        return _directory(order, entries[IFD0] + pointing, own, at)

    after, others, starts = at + len(first([0] * len(pointers))), b"", []
    for directory in pointers:
        starts.append(after + len(others))
        others += _directory(order, entries[directory], [], starts[-1])
    return first(starts) + others


def _directory(order: str, entries: list[tuple[int, int, bytes]], own: list[bytes], at: int) -> bytes:
    """Return a directory that lies at `at`, with its values behind it; of an even size."""
    count = len(entries) + len(own)
    behind, values, written = at + 2 + 12 * count + 4, b"", list(own)
    for code, kind, value in entries:
        head = struct.pack(order + "HHL", code, kind, len(value) // _TYPES[kind][0])
        if len(value) <= 4:
            written.append(head + value.ljust(4, b"\0"))
        else:
            written.append(head + struct.pack(order + "L", behind + len(values)))
            values += value + b"\0" * (len(value) % 2)
    written.sort(key=lambda entry: struct.unpack_from(order + "H", entry))
    return struct.pack(order + "H", count) + b"".join(written) + bytes(4) + values


def _swapped(tag: Tag) -> bytes:
    """Return the value in the other byte order."""
    return np.frombuffer(tag.value, f"u{_TYPES[tag.kind][1]}").byteswap().tobytes()
