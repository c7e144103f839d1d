"""Small ONNX networks made for the tests, and how the reference runtime runs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

onnxruntime.set_default_logger_severity(3)


def model(
    nodes: Sequence[Any], constants: Mapping[str, np.ndarray], outputs: Sequence[str] = ("y",), channels: int = 3
) -> bytes:
    """A network of a picture `x` (1, channels, any, any)."""
    picture = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, None, None])
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(list(nodes), "test", [picture], results, tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    data: bytes = made.SerializeToString()
    return data


def reference(data: bytes | Path, **inputs: np.ndarray) -> list[np.ndarray]:
    """The outputs by ONNX Runtime; names as `apf.runtime.numpy_net.network.Network` takes them."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(data if isinstance(data, bytes) else str(data), options)
    names = [entry.name for entry in session.get_inputs()]
    found: list[np.ndarray] = session.run(None, {name: inputs[name.replace(".", "_")] for name in names})
    return found


def of_any_size(path: Path) -> bytes:
    """A file's network without the sizes of pictures that it states, to which the reference would hold it."""
    known = onnx.load(path)
    constants = {tensor.name for tensor in known.graph.initializer}
    for entry in [*known.graph.input, *known.graph.output]:
        if entry.name not in constants:
            for dim in entry.type.tensor_type.shape.dim:
                dim.Clear()
    data: bytes = known.SerializeToString()
    return data


def node(kind: str, inputs: Sequence[str], output: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs), [output], **attributes)


def values(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)
