"""The part of ONNX's file format that our two networks use (onnx.proto3, read as protobuf's wire format)."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apf.errors import WeightsError

Array = NDArray[Any]
#: A message's fields by number: whole numbers as they are, all else as bytes, in file order.
Fields = dict[int, list[int | bytes]]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
#: onnx.TensorProto.DataType.
_TYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), 7: np.dtype("<i8")}


@dataclass(frozen=True)
class Node:
    """One operation."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    #: Attributes that are whole numbers or lists of them, by name; of others, the name with nothing.
    numbers: dict[str, list[int]]
    #: The operations that this one stands for, one after the other (`apf.runtime.numpy_net.fusion`).
    parts: tuple[Node, ...] = ()
    #: Attributes that are real numbers, by name.
    reals: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """A network: its operations in an order in which they can run."""

    nodes: tuple[Node, ...]
    constants: dict[str, Array]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    metadata: dict[str, str]


def read_onnx(path: Path) -> Graph:
    """Read a model's file.

    Raises:
        WeightsError: it is missing, damaged, or not of this kind.
    """
    try:
        model = _fields(memoryview(path.read_bytes()))
        graph = _message(model, 7)
        constants = dict(_tensor(data) for data in _messages(graph, 5))
        # Older files name their constants among the inputs, too.
        inputs = [name for name in (_text(value, 1) for value in _messages(graph, 11)) if name not in constants]
        return Graph(
            nodes=tuple(_node(data) for data in _messages(graph, 1)),
            constants=constants,
            inputs=tuple(inputs),
            outputs=tuple(_text(value, 1) for value in _messages(graph, 12)),
            metadata={_text(entry, 1): _text(entry, 2) for entry in _messages(model, 14)},
        )
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}): install the package again") from error
    except (ValueError, LookupError, OverflowError, struct.error, TypeError) as error:
        raise WeightsError(f"{path} is no whole ONNX file ({error}): install the package again") from error


def _node(fields: Fields) -> Node:
    numbers: dict[str, list[int]] = {}
    reals: dict[str, float] = {}
    for attribute in _messages(fields, 5):
        name = _text(attribute, 1)
        numbers[name] = _whole(attribute, 8) or _whole(attribute, 3)
        for real in attribute.get(2, []):
            reals[name] = struct.unpack("<f", real)[0] if isinstance(real, bytes) else float(real)
    return Node(_text(fields, 4), _texts(fields, 1), _texts(fields, 2), numbers, reals=reals)


def _tensor(fields: Fields) -> tuple[str, Array]:
    kind: np.dtype[Any] = _TYPES[_whole(fields, 2)[0]]
    raw = b"".join(part for number in (9, 4) for part in fields.get(number, []) if isinstance(part, bytes))
    array: Array = np.frombuffer(raw, kind) if raw else np.array(_whole(fields, 7)).astype(kind)
    return _text(fields, 8), array.reshape(_whole(fields, 1))


def _fields(data: memoryview) -> Fields:
    found: Fields = defaultdict(list)
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            number, at = _varint(data, at)
            found[tag >> 3].append(number)
            continue
        if kind == _BYTES:
            length, at = _varint(data, at)
        else:
            length = {_FIXED64: 8, _FIXED32: 4}[kind]
        if at + length > len(data):
            raise ValueError("it ends early")
        found[tag >> 3].append(bytes(data[at : at + length]))
        at += length
    return found


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value & (2**64 - 1), at
        if shift >= 70:
            raise ValueError("a number of more than ten bytes")


def _messages(fields: Fields, number: int) -> Iterator[Fields]:
    return (_fields(memoryview(part)) for part in fields.get(number, []) if isinstance(part, bytes))


def _message(fields: Fields, number: int) -> Fields:
    found = next(_messages(fields, number), None)
    if found is None:
        raise ValueError("it holds no graph")
    return found


def _texts(fields: Fields, number: int) -> tuple[str, ...]:
    return tuple(part.decode() for part in fields.get(number, []) if isinstance(part, bytes))


def _text(fields: Fields, number: int) -> str:
    return next(iter(_texts(fields, number)), "")


def _whole(fields: Fields, number: int) -> list[int]:
    """Whole numbers, one by one or packed."""
    found: list[int] = []
    for part in fields.get(number, []):
        if isinstance(part, int):
            found.append(part)
            continue
        at, packed = 0, memoryview(part)
        while at < len(packed):
            value, at = _varint(packed, at)
            found.append(value)
    return [value - 2**64 if value >= 2**63 else value for value in found]
