"""Build one ONNX graph of value and gradient from a recogniser's network.

The network is gone through backwards, operation by operation, by the rules of `apf.guides.backward_rules`,
`activations` and `convolutions`. An operation that is unknown there is refused by name.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from apf.guides.backward_activations import ACTIVATIONS
from apf.guides.backward_convolutions import CONVOLUTIONS
from apf.guides.backward_rules import ARITHMETIC
from apf.guides.gradient_tape import Tape
from apf.guides.network_trace import Trace, forward, trace
from apf.runtime.onnx_builder import Builder

RULES = {**ARITHMETIC, **ACTIVATIONS, **CONVOLUTIONS}
#: Shorter embeddings count as this long, as torch's `normalize` has it.
SHORTEST = 1e-12


def value_and_gradient(model: onnx.ModelProto, size: tuple[int, int]) -> onnx.ModelProto:
    """Return the graph of one face of (height, width).

    Inputs: `face` (1, 3, height, width), as the network takes it; `reference` (1, D), a unit vector.
    Outputs: `embedding` (1, D) of unit length; `cosine` (1, 1) of the two; `gradient` (1, 3, height, width), of the
    cosine by the face.

    Raises:
        UnsupportedGuide: an operation is not known, or the network is none from one picture to one vector.
    """
    found = trace(model, size)
    b = Builder("apf/", found.opset)
    b.add("Identity", "face", name=found.input)
    forward(b, found)
    tape = Tape(b, found)
    dim = int(np.prod(found.shapes[found.output]))
    tape.start(found.output, tape.shaped(_cosine(tape, found.output, dim), found.shapes[found.output]))
    for step in reversed(found.steps):
        rule = RULES.get(step.kind)
        if rule is None:
            raise step.refuse("the operation is not known")
        if set(step.outputs[1:]) & {name for one in found.steps for name in one.inputs} - {""}:
            raise step.refuse("only its first output is known")
        gradient = tape.taken(step.outputs[0])
        if gradient is not None:
            rule(tape, step, gradient)
    _finish(tape, found)
    vector, picture = [1, dim], [1, 3, *size]
    inputs = [_value("face", picture), _value("reference", vector)]
    outputs = [_value("embedding", vector), _value("cosine", [1, 1]), _value("gradient", picture)]
    return b.model("value_and_gradient", inputs, outputs)


def _cosine(t: Tape, output: str, dim: int) -> str:
    """Add embedding and cosine; returns the gradient of the cosine at the network's output, (1, dim)."""
    raw = t.shaped(output, [1, dim])
    square = t.b.add("ReduceSum", t.b.add("Mul", raw, raw), t.whole([1]), keepdims=1)
    size = t.b.add("Max", t.b.add("Sqrt", square), t.number(SHORTEST))
    unit = t.b.add("Div", raw, size, name="embedding")
    cosine = t.b.add("ReduceSum", t.b.add("Mul", unit, "reference"), t.whole([1]), keepdims=1, name="cosine")
    return t.b.add("Div", t.b.add("Sub", "reference", t.b.add("Mul", unit, cosine)), size)


def _finish(t: Tape, found: Trace) -> None:
    gradient = t.taken(found.input)
    shape = found.shapes[found.input]
    t.b.add("Identity", gradient or t.b.constant(np.zeros(shape, np.float32)), name="gradient")


def _value(name: str, shape: list[int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
