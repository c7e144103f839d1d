"""Write networks as ONNX, operation by operation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

#: Of ONNX's operations: the oldest with all of ours, for the sake of old runtimes.
OPSET, IR_VERSION = 13, 8


class Builder:
    """Collects nodes and constants; values are known by name.

    Args:
        prefix: of the names of values and constants, where a network's own are to stay apart from them.
        opset: of ONNX's operations.
    """

    def __init__(self, prefix: str = "", opset: int = OPSET) -> None:
        self._prefix, self._opset = prefix, opset
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._known: dict[bytes, str] = {}

    def constant(self, array: np.ndarray) -> str:
        """Return the name of a constant; equal ones are kept once, as forward and backward share the weights."""
        key = hashlib.sha256(str((array.dtype, array.shape)).encode() + array.tobytes()).digest()
        if key not in self._known:
            self._known[key] = f"{self._prefix}constant{len(self.constants)}"
            self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), self._known[key]))
        return self._known[key]

    def number(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def add(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Add an operation; returns the name of its output."""
        output = name or f"{self._prefix}value{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def pair(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add an operation of two outputs; returns the name of the second."""
        outputs = [f"{self._prefix}value{len(self.nodes)}{which}" for which in ("a", "b")]
        self.nodes.append(helper.make_node(kind, list(inputs), outputs, **attributes))
        return outputs[1]

    def model(self, name: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> onnx.ModelProto:
        """Return the whole network, checked."""
        graph = helper.make_graph(self.nodes, name, list(inputs), list(outputs), self.constants)
        opset = helper.make_opsetid("", self._opset)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="apf")
        onnx.checker.check_model(model, full_check=True)
        return model
