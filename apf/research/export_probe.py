"""`python -m apf.research.export_probe`: the probe as ONNX, with its gradient graph, for devices without torch.

The network is one graph with two outputs: the embedding of a face, and the gradient of its similarity to a given
embedding. The second runs the first backwards, operation by operation: a convolution's transpose is ConvTranspose with
the same weights, so the file is as large as the probe alone. Any ONNX runtime runs it, a browser's too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from safetensors.torch import load_file
from torch import nn

from apf.faces.alignment import CROP
from apf.runtime.onnx_builder import Builder
from apf.stages.constants import STEPS
from apf.stages.gradient import maps
from apf.stages.numpy_gradient import GRADIENT_ONNX
from apf.stages.probe import BLOCK_DIM, BLOCKS, Probe, Residual, fused
from apf.weight_files import WEIGHTS_DIR, digest_of, write_sums

DIM = BLOCKS * BLOCK_DIM

#: Runs a part of the network backwards: from the name of the gradient at its output to that at its input.
Backward = Callable[[str], str]


def probe_gradient(probe: Probe) -> onnx.ModelProto:
    """Return the graph of a fused probe.

    Inputs: `face` (1, 3, 112, 112) in [0, 1], and beyond where it is perturbed; `own` (1, 320), an embedding.
    Outputs: `embedding` (1, 320); `away` (1, 3, 112, 112), the gradient of minus their scalar product.
    """
    b = Builder()
    x = b.add("Sub", b.add("Mul", "face", b.number(2)), b.number(1))
    back: list[Backward] = []
    for part in probe.trunk:
        x, backward = _residual(b, part, x) if isinstance(part, Residual) else _convolution(b, part, x, active=True)
        back.append(backward)
    x, backward = _convolution(b, probe.pool, x, active=False)
    back.append(backward)
    gradient = _head(b, probe.head, x)
    for backward in reversed(back):
        gradient = backward(gradient)
    b.add("Mul", gradient, b.number(2), name="away")
    return _model(b)


def _convolution(b: Builder, part: nn.Module, x: str, *, active: bool) -> tuple[str, Backward]:
    """Return a fused convolution, with SiLU behind it where it is active."""
    layer = part[0]  # type: ignore[index]
    weight, bias = (b.constant(tensor.detach().numpy()) for tensor in (layer.weight, layer.bias))
    (stride, _), (padding, _) = layer.stride, layer.padding
    geometry: dict[str, Any] = {
        "kernel_shape": list(layer.kernel_size),
        "strides": [stride] * 2,
        "pads": [padding] * 4,
        "group": layer.groups,
    }
    before = b.add("Conv", x, weight, bias, **geometry)
    out, silu_back = _silu(b, before) if active else (before, lambda gradient: gradient)

    def back(gradient: str) -> str:
        # Of an even side, every other pixel was taken: one is to be added to get back to it.
        more: dict[str, Any] = {"output_padding": [stride - 1] * 2} if stride > 1 else {}
        return b.add("ConvTranspose", silu_back(gradient), weight, **geometry, **more)

    return out, back


def _residual(b: Builder, part: Residual, x: str) -> tuple[str, Backward]:
    first, first_back = _convolution(b, part.first, x, active=True)
    second, second_back = _convolution(b, part.second, first, active=False)
    out, silu_back = _silu(b, b.add("Add", x, second))

    def back(gradient: str) -> str:
        straight = silu_back(gradient)
        return b.add("Add", straight, first_back(second_back(straight)))

    return out, back


def _silu(b: Builder, x: str) -> tuple[str, Backward]:
    gate = b.add("Sigmoid", x)
    out = b.add("Mul", x, gate)

    def back(gradient: str) -> str:
        # d(x s)/dx = s + x s (1 - s)
        slope = b.add("Add", gate, b.add("Mul", out, b.add("Sub", b.number(1), gate)))
        return b.add("Mul", gradient, slope)

    return out, back


def _head(b: Builder, head: nn.Linear, x: str) -> str:
    """Embeds the pooled (1, 128, 1, 1); returns the name of the gradient of minus the product with `own` at it."""
    width = head.in_features
    weight = head.weight.detach().numpy()
    raw = b.add("MatMul", b.add("Reshape", x, b.constant(np.array([1, width]))), b.constant(weight.T.copy()))
    raw = b.add("Add", raw, b.constant(head.bias.detach().numpy()))
    blocks = b.add("Reshape", raw, b.constant(np.array([BLOCKS, BLOCK_DIM])))
    ones = b.constant(np.array([1]))
    square = b.add("ReduceSum", b.add("Mul", blocks, blocks), ones, keepdims=1)
    size = b.add("Max", b.add("Sqrt", square), b.number(1e-12))
    unit = b.add("Div", blocks, size)
    whole = b.constant(np.array([1, DIM]))
    b.add("Mul", b.add("Reshape", unit, whole), b.number(1 / math.sqrt(BLOCKS)), name="embedding")
    # Of each block's product with its part of `own`, only what is across the block changes its direction.
    wanted = b.add(
        "Mul", b.add("Reshape", "own", b.constant(np.array([BLOCKS, BLOCK_DIM]))), b.number(-1 / math.sqrt(BLOCKS))
    )
    along = b.add("ReduceSum", b.add("Mul", unit, wanted), ones, keepdims=1)
    across = b.add("Div", b.add("Sub", wanted, b.add("Mul", unit, along)), size)
    pooled = b.add("MatMul", b.add("Reshape", across, whole), b.constant(weight))
    return b.add("Reshape", pooled, b.constant(np.array([1, width, 1, 1])))


def _model(b: Builder) -> onnx.ModelProto:
    def picture(name: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, CROP, CROP])

    def vector(name: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, DIM])

    return b.model("probe_gradient", [picture("face"), vector("own")], [vector("embedding"), picture("away")])


def shipped(folder: Path = WEIGHTS_DIR) -> bytes:
    """Return the file that belongs to the weights in a folder."""
    probe = Probe()
    probe.load_state_dict(load_file(folder / "probe.safetensors"))
    model = probe_gradient(fused(probe.eval()))
    facts = {"weights": digest_of(folder), "maps": json.dumps(maps(STEPS).tolist())}
    helper.set_model_props(model, facts)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def export(folder: Path = WEIGHTS_DIR) -> None:
    """Write the file beside the weights that it is made of, and note the digests of all."""
    (folder / GRADIENT_ONNX).write_bytes(shipped(folder))
    write_sums(folder)


if __name__ == "__main__":
    export()
