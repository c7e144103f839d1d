"""ONNX files that users bring, looked at before anything runs them: their size, where their data is, what they do.

A file may name others as its data (any path that the process can read), hold programs (loops, branches, functions of
its own) and operators of libraries to be loaded, or ask for more memory than any machine has. Recognisers and detectors
of faces do none of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, SparseTensorProto, TensorProto

#: The largest recogniser that is in use has 260 MB, and 500 nodes.
MAX_FILE_BYTES, MAX_NODES = 2**30, 20_000
#: Numbers of one value: a batch of photos of 1280 x 1280 in 64 channels has fewer.
MAX_NUMBERS = 2**30

_STANDARD = ("", "ai.onnx")


def read_onnx(path: Path) -> bytes:
    """Return the bytes of a file that is not too large; raises OSError and ValueError."""
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ValueError(f"it has {size:,} bytes, over {MAX_FILE_BYTES:,}")
    return path.read_bytes()


def checked(data: bytes) -> ModelProto:
    """Return the network, which reads no other file, holds no program, and asks for no more than there may be.

    Raises:
        ValueError: it does; or onnx's own errors, of any kind, where the bytes are no whole network.
    """
    model = onnx.load_model_from_string(data)
    if model.functions or model.training_info:
        raise ValueError("it holds functions of its own: export it without")
    graph = model.graph
    if len(graph.node) > MAX_NODES:
        raise ValueError(f"it has {len(graph.node):,} nodes, over {MAX_NODES:,}")
    for node in graph.node:
        if node.domain not in _STANDARD:
            raise ValueError(f"it needs the operator {node.domain}.{node.op_type}: export it with ONNX's own alone")
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise ValueError(f"it holds a program ({node.op_type}): export it without loops and branches")
    for tensor in _tensors(graph):
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            raise ValueError(f"its data {tensor.name!r} is in another file, which is not read: export it as one file")
        _check_shape(tensor.name, tensor.dims)
    onnx.checker.check_model(model)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    for value in (*graph.input, *graph.output, *inferred.value_info):
        _check_shape(value.name, [dim.dim_value for dim in value.type.tensor_type.shape.dim])
    return model


def check_folder(folder: Path) -> None:
    """All networks of a pack; raises as `checked`, with the file's name."""
    for path in sorted(folder.glob("*.onnx")):
        try:
            checked(read_onnx(path))
        except Exception as error:  # onnx raises anything on what is none
            raise ValueError(f"{path.name}: {error}") from error


def _check_shape(name: str, sides: Iterable[int]) -> None:
    """Sides that a file leaves open count as 1."""
    numbers = math.prod(max(side, 1) for side in sides)
    if numbers > MAX_NUMBERS:
        raise ValueError(f"its value {name!r} has {numbers:,} numbers, over {MAX_NUMBERS:,}")


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """All that holds data: constants of the graph and of its nodes."""
    yield from graph.initializer
    sparse: list[SparseTensorProto] = [*graph.sparse_initializer]
    attributes: list[AttributeProto] = [attribute for node in graph.node for attribute in node.attribute]
    for attribute in attributes:
        yield from (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors)
        sparse += [
            *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
            *attribute.sparse_tensors,
        ]
    for tensor in sparse:
        yield from (tensor.values, tensor.indices)
