"""Small ONNX networks: one operation, or a few, between a picture and an embedding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

DIM = 5
#: Channels, height and width of the networks' input.
SHAPE = (3, 9, 8)


class Net:
    """Collects nodes; `x` is the picture."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def const(self, values: Any) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def add(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"v{len(self.nodes)}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names


def network(
    body: Callable[[Net, str], str], size: int, *, opset: int = 13, shape: tuple[int, int, int] = SHAPE
) -> onnx.ModelProto:
    """A network whose embedding is a fixed matrix times what `body` makes of the picture, `size` values."""
    net = Net()
    flat = net.add("Reshape", body(net, "x"), net.const(np.array([-1, size])))
    net.nodes.append(helper.make_node("MatMul", [flat, net.const(matrix(size))], ["embedding"]))
    graph = helper.make_graph(
        net.nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", "D"])],
        initializer=net.weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def matrix(size: int) -> np.ndarray:
    return random(size, DIM, seed=99)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def face_network(folder: Path, name: str = "tiny", side: int = 112, seed: int = 0) -> Path:
    """The file of a network for faces of `side` pixels: a strided convolution, a PRelu, a mean and a matrix."""

    def body(net: Net, x: str) -> str:
        seen = net.add("Conv", x, net.const(random(4, 3, 5, 5, seed=seed) / 100), strides=[3, 3])
        seen = net.add("PRelu", seen, net.const(np.full((4, 1, 1), 0.25, np.float32)))
        return str(net.add("AveragePool", seen, kernel_shape=[9, 9], strides=[9, 9]))

    out = ((side - 5) // 3 + 1 - 9) // 9 + 1
    path = folder / f"{name}.onnx"
    onnx.save(network(body, 4 * out * out, shape=(3, side, side)), path)
    return path
