"""dlib's face recognition network (CC0), read from dlib's own file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from apf.errors import GuideError
from apf.guides.catalogue import DLIB, DLIB_FILE
from apf.runtime.onnx_builder import Builder
from apf.weight_files import CURE

Float32 = NDArray[np.float32]

SIDE = 150

_LAYER = re.compile(rb"\x01(?:\x05(con_4)|\x07(affine_)|\x04(fc_2))")


def read_dlib(path: Path | None = None) -> onnx.ModelProto:
    """Return the network, with input (1, 3, 150, 150) and output (1, 128).

    Raises:
        GuideError: the file is missing, or has another digest than the one that this was written for.
    """
    path = path or DLIB_FILE
    try:
        data = path.read_bytes()
    except OSError as error:
        raise GuideError(f"guide 'dlib': {path} cannot be read ({error.strerror}): {CURE}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != DLIB.sha256:
        raise GuideError(f"guide 'dlib': {path} has SHA-256 {found}, not {DLIB.sha256}: {CURE}")
    return _network(list(_layers(data)))


def _layers(data: bytes) -> Iterator[tuple[str, list[int], Float32]]:
    """Yield the layers that have weights, from the face to the embedding: kind, whole numbers, weights.

    dlib writes a layer as its name (its length first) and its parts. Names are looked for between the weights only.
    """
    at = 0
    while found := _LAYER.search(data, at):
        at, kind = found.end(), found[1] or found[2] or found[3]
        # A dense layer's sizes come before its weights, a convolution's after.
        at = _whole(data, at, 2)[1] if kind == b"fc_2" else at
        (_, *shape), at = _whole(data, at, 5)
        count = int(np.prod(shape))
        weights = np.frombuffer(data, "<f4", count, at).reshape(shape)
        at += 4 * count
        numbers = _whole(data, at, 7)[0] if kind == b"con_4" else []
        yield kind.decode(), numbers, weights


def _whole(data: bytes, at: int, count: int) -> tuple[list[int], int]:
    """Whole numbers: how many bytes, and the bytes, the lowest first."""
    found = []
    for _ in range(count):
        length = data[at] & 0x0F
        found.append(int.from_bytes(data[at + 1 : at + 1 + length], "little"))
        at += 1 + length
    return found, at


class _Picture:
    """A value of the network, (1, channels, side, side)."""

    def __init__(self, name: str, channels: int, side: int) -> None:
        self.name, self.channels, self.side = name, channels, side


def _network(layers: list[tuple[str, list[int], Float32]]) -> onnx.ModelProto:
    b = Builder()
    halves = zip(layers[:-1:2], layers[1:-1:2], strict=True)
    pairs = [(numbers, conv, affine) for (_, numbers, conv), (_, _, affine) in halves]
    x = _active(b, _convolution(b, _Picture("face", 3, SIDE), *pairs[0]))
    x = _Picture(b.add("MaxPool", x.name, kernel_shape=[3, 3], strides=[2, 2]), x.channels, (x.side - 3) // 2 + 1)
    for first, second in zip(pairs[1::2], pairs[2::2], strict=True):
        found = _convolution(b, _active(b, _convolution(b, x, *first)), *second)
        x = _active(b, _sum(b, found, _halved(b, x) if found.side < x.side - 1 else x))
    pooled = b.add("Flatten", b.add("GlobalAveragePool", x.name), axis=1)
    b.add("MatMul", pooled, b.constant(layers[-1][2][:, :, 0, 0].copy()), name="embedding")
    values = [("face", [1, 3, SIDE, SIDE]), ("embedding", [1, 128])]
    face, embedding = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values)
    return b.model("dlib", [face], [embedding])


def _convolution(b: Builder, x: _Picture, numbers: list[int], conv: Float32, affine: Float32) -> _Picture:
    """Return a convolution, and the scale and shift that follow it, in one."""
    filters, height, width, stride, _, padding, _ = numbers
    kernel, bias = np.split(conv.ravel(), [-filters])
    scale, shift = np.split(affine.ravel(), 2)
    weight = kernel.reshape(filters, -1, height, width) * scale[:, None, None, None]
    geometry: dict[str, Any] = {"strides": [stride] * 2, "pads": [padding] * 4}
    name = b.add("Conv", x.name, b.constant(weight), b.constant(bias * scale + shift), **geometry)
    return _Picture(name, filters, (x.side + 2 * padding - height) // stride + 1)


def _active(b: Builder, x: _Picture) -> _Picture:
    return _Picture(b.add("Relu", x.name), x.channels, x.side)


def _halved(b: Builder, x: _Picture) -> _Picture:
    name = b.add("AveragePool", x.name, kernel_shape=[2, 2], strides=[2, 2])
    return _Picture(name, x.channels, (x.side - 2) // 2 + 1)


def _sum(b: Builder, x: _Picture, y: _Picture) -> _Picture:
    """As dlib adds: what one has less of, in channels, rows or columns, counts as zero."""
    channels, side = max(x.channels, y.channels), max(x.side, y.side)
    names = []
    for one in (x, y):
        more = np.array([0, 0, 0, 0, 0, channels - one.channels, *[side - one.side] * 2], np.int64)
        names.append(b.add("Pad", one.name, b.constant(more)) if more.any() else one.name)
    return _Picture(b.add("Add", *names), channels, side)
