"""Run an ONNX network of the operations that CenterFace and the probe are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from apf.errors import WeightsError
from apf.runtime.numpy_net.convolution import Convolution, InvertedResidual, TransposedConvolution
from apf.runtime.numpy_net.fusion import fused
from apf.runtime.numpy_net.onnx_file import Array, Graph, Node, read_onnx

Float32 = NDArray[np.float32]
#: From the values of a node's inputs that are not constants, to that of its output.
Operation = Callable[..., Any]


class Runnable(Protocol):
    """A network that is ready to run, whatever runs it."""

    metadata: dict[str, str]

    def only(self, output: str) -> Runnable: ...

    def __call__(self, **inputs: Float32) -> dict[str, Float32]: ...


class Network:
    """A network that is ready to run. Pictures go in and out as ONNX has them, (1, C, H, W)."""

    def __init__(self, graph: Graph) -> None:
        self.metadata = graph.metadata
        self._graph = graph
        self._steps = [(step, _operation(step, graph.constants)) for step in fused(graph)]
        self._uses = Counter(name for step, _ in self._steps for name in step.inputs) + Counter(graph.outputs)

    @classmethod
    def load(cls, path: Path) -> Network:
        """Of an ONNX file; raises WeightsError where it is damaged, or has other kinds of operations."""
        graph = read_onnx(path)
        try:
            return cls(graph)
        except (NotImplementedError, LookupError, ValueError, TypeError) as error:
            raise WeightsError(f"{path} cannot be run here: {error}") from error

    def only(self, output: str) -> Network:
        """Return the part of the network that one of its outputs needs."""
        needed, nodes = {output}, []
        for node in reversed(self._graph.nodes):
            if needed.intersection(node.outputs):
                needed.update(node.inputs)
                nodes.append(node)
        inputs = tuple(name for name in self._graph.inputs if name in needed)
        return Network(replace(self._graph, nodes=tuple(reversed(nodes)), inputs=inputs, outputs=(output,)))

    def __call__(self, **inputs: Float32) -> dict[str, Float32]:
        """Return the outputs by name; of the inputs, `input.1` is given as `input_1`."""
        values: dict[str, Any] = {name: inputs[name.replace(".", "_")] for name in self._graph.inputs}
        left = Counter(self._uses)
        for node, operation in self._steps:
            given = [values[name] for name in node.inputs if name not in self._graph.constants]
            values[node.outputs[0]] = operation(*given)
            for name in node.inputs:
                left[name] -= 1
                if not left[name]:
                    values.pop(name, None)  # a large photo's layers are a hundred megabytes each
        return {name: values[name] for name in self._graph.outputs}


def _operation(node: Node, constants: dict[str, Array]) -> Operation:
    """Return a node as a function of those of its inputs that are no constants."""
    if node.kind == "InvertedResidual":
        return _on_picture(
            InvertedResidual(*(_layer(part, [constants.get(n) for n in part.inputs]) for part in node.parts))
        )
    make = _KINDS.get(node.kind)
    if make is None:
        raise NotImplementedError(f"operation {node.kind}")
    return make(node, [constants.get(name) for name in node.inputs])


def _convolution(node: Node, given: list[Any]) -> Operation:
    return _on_picture(_layer(node, given))


def _layer(node: Node, given: list[Any]) -> Convolution:
    weight, bias = _weights(node, given)
    return Convolution.of(weight, bias, **_geometry(node), relu="relu" in node.numbers)


def _transposed(node: Node, given: list[Any]) -> Operation:
    weight, bias = _weights(node, given)
    more = node.numbers.get("output_padding", [0])[0]
    return _on_picture(TransposedConvolution.of(weight, bias, **_geometry(node), output_padding=more))


def _on_picture(layer: Callable[[Float32], Float32]) -> Operation:
    # (1, C, H, W) is a view of (H, W, C): whatever works value by value keeps the layout.
    return lambda x: layer(x[0].transpose(1, 2, 0)).transpose(2, 0, 1)[None]


def _geometry(node: Node) -> dict[str, int]:
    numbers = node.numbers
    if strange := {"auto_pad", "output_shape"} & set(numbers):
        raise NotImplementedError(f"{node.kind} with {', '.join(sorted(strange))}")
    for name in ("strides", "pads", "dilations", "output_padding"):
        if len(set(numbers.get(name, [1]))) != 1:
            raise NotImplementedError(f"{node.kind} with unequal {name} {numbers[name]}")
    if numbers.get("dilations", [1])[0] != 1:
        raise NotImplementedError(f"{node.kind} with dilations")
    return {
        "stride": numbers.get("strides", [1])[0],
        "padding": numbers.get("pads", [0])[0],
        "groups": numbers.get("group", [1])[0],
    }


def _weights(node: Node, given: list[Any]) -> tuple[Any, Any]:
    """Return a convolution's kernel, and its bias or None."""
    if any(one is None for one in given[1:]):
        raise NotImplementedError(f"{node.kind} with weights that are no constants")
    return given[1], given[2] if len(given) > 2 else None


def _norm(node: Node, given: list[Any]) -> Operation:
    """BatchNormalization by its stored statistics."""
    scale = given[1] / np.sqrt(given[4] + np.float32(node.reals.get("epsilon", 1e-5)))
    shift = given[2] - given[3] * scale
    return lambda x: x * scale[:, None, None] + shift[:, None, None]


def _by_value(function: Operation) -> Callable[[Node, list[Any]], Operation]:
    """Return an operation whose inputs may be constants."""

    def make(_: Node, given: list[Any]) -> Operation:
        def run(*values: Any) -> Any:
            left = iter(values)
            return function(*(next(left) if one is None else one for one in given))

        return run

    return make


def _sum(node: Node, given: list[Any]) -> Operation:
    if node.numbers.get("keepdims", [1]) != [1]:
        raise NotImplementedError("ReduceSum that drops the summed axes")
    axes = tuple(int(axis) for axis in given[1])
    return lambda x: x.sum(axes, keepdims=True)


def _sigmoid(x: Float32) -> Float32:
    found: Float32 = np.reciprocal(1 + np.exp(-x))
    return found


_KINDS: dict[str, Callable[[Node, list[Any]], Operation]] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "BatchNormalization": _norm,
    "ReduceSum": _sum,
    "Relu": _by_value(lambda x: np.maximum(x, 0)),
    "Sigmoid": _by_value(_sigmoid),
    "Sqrt": _by_value(np.sqrt),
    "Add": _by_value(np.add),
    "Sub": _by_value(np.subtract),
    "Mul": _by_value(np.multiply),
    "Div": _by_value(np.divide),
    "MatMul": _by_value(np.matmul),
    "Max": _by_value(np.maximum),
    "Reshape": _by_value(lambda x, shape: np.ascontiguousarray(x).reshape(shape)),
}
