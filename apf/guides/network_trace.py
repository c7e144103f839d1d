"""Trace a recogniser's network: constants computed, and the shape of every value known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import compose, helper, numpy_helper, version_converter

from apf.errors import UnsupportedGuide
from apf.runtime.onnx_builder import Builder
from apf.runtime.onnx_session import quiet_session

Array = NDArray[Any]

#: Of ONNX's operations: the oldest whose ScatterElements adds up.
GRADIENT_OPSET = 16


@dataclass(frozen=True)
class Step:
    """One operation on values that depend on the face."""

    kind: str
    #: Its name in the file, for messages.
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    def refuse(self, why: str) -> UnsupportedGuide:
        return UnsupportedGuide(
            f"no gradient of {self.kind} {self.name!r}: {why}; export the network without it, or use a GPU (torch)"
        )


@dataclass(frozen=True)
class Trace:
    """A network for one face, as the operations between its input and its embedding."""

    steps: tuple[Step, ...]
    #: Of every value for one face, constants too.
    shapes: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, Array]
    input: str
    output: str
    opset: int

    def constant(self, step: Step, index: int) -> Array | None:
        """Return a step's input where it is constant; None where it depends on the face, or is left out."""
        return self.constants.get(step.inputs[index]) if index < len(step.inputs) else None

    def whole(self, step: Step, attribute: str, index: int) -> list[int] | None:
        """Whole numbers that newer operations take as an input and older ones as an attribute; None: neither."""
        found = self.constant(step, index)
        if found is None and index < len(step.inputs) and step.inputs[index]:
            raise step.refuse(f"its {attribute} depend on the face")
        return step.attributes.get(attribute) if found is None else [int(value) for value in found.ravel()]


def trace(model: onnx.ModelProto, size: tuple[int, int]) -> Trace:
    """Return the network for one face of (height, width).

    All values are computed once, of a grey face: that gives their shapes, and the values of those that only depend on
    shapes and weights.

    Raises:
        UnsupportedGuide: it cannot be run, or is no network from one picture to one vector.
    """
    model = compose.add_prefix(_current(model), "network/")  # apart from the names of what is added
    graph = model.graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    given = [value.name for value in graph.input if value.name not in weights]
    if len(given) != 1 or len(graph.output) != 1:
        names = [value.name for value in graph.output]
        raise UnsupportedGuide(f"a guide has one input and one output, not {given} and {names}: export it so")
    values = _values(model, given[0], np.full((1, 3, *size), 0.5, np.float32))
    active, steps = {given[0]}, []
    for node in graph.node:
        if active.intersection(node.input) and node.op_type not in ("Shape", "Size"):
            active.update(node.output)
            steps.append(_step(node))
    known = {**values, **weights}
    return Trace(
        steps=tuple(_needed(steps, graph.output[0].name)),
        shapes={name: tuple(value.shape) for name, value in known.items()},
        constants={name: value for name, value in known.items() if name not in active},
        input=given[0],
        output=graph.output[0].name,
        opset=next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx")),
    )


def forward(b: Builder, found: Trace) -> None:
    """Add the network's own operations, under their own names, and what they need of constants."""
    wanted = {name for step in found.steps for name in step.inputs}
    b.constants.extend(
        numpy_helper.from_array(np.ascontiguousarray(found.constants[name]), name)
        for name in sorted(wanted & set(found.constants))
    )
    for step in found.steps:
        slope = found.constant(step, 1)
        if step.kind == "PRelu" and slope is not None and slope.max() <= 1:
            # The same to the bit, in a fifteenth of the time that ONNX Runtime takes for its own.
            b.add("Max", step.inputs[0], b.add("Mul", step.inputs[0], step.inputs[1]), name=step.outputs[0])
        else:
            b.nodes.append(helper.make_node(step.kind, step.inputs, step.outputs, **step.attributes))


def _current(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the same network in a version of ONNX that the gradient's operations have, too."""
    domains = {one.domain: one.version for one in model.opset_import}
    if strange := sorted({node.domain for node in model.graph.node} - {"", "ai.onnx"}):
        raise UnsupportedGuide(
            f"operations of {', '.join(strange)} are not ONNX's own: export the network without them"
        )
    if domains.get("", domains.get("ai.onnx", 0)) >= GRADIENT_OPSET:
        return model
    try:
        return version_converter.convert_version(model, GRADIENT_OPSET)
    except Exception as error:  # the converter's own have no other base
        raise UnsupportedGuide(f"the network does not convert to ONNX opset {GRADIENT_OPSET}: {error}") from error


def _values(model: onnx.ModelProto, name: str, face: Array) -> dict[str, Array]:
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    names = list(dict.fromkeys(output for node in shown.graph.node for output in node.output if output))
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.ValueInfoProto(name=one) for one in names)
    try:
        session = quiet_session(shown, onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)
        found: Sequence[Array] = session.run(names, {name: face})
    except Exception as error:  # ONNX Runtime's own have no other base
        shape = "x".join(str(side) for side in face.shape)
        raise UnsupportedGuide(f"the network does not run on a face of {shape}: {error}; mend its spec") from error
    return {**dict(zip(names, found, strict=True)), name: face}


def _step(node: onnx.NodeProto) -> Step:
    attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    return Step(node.op_type, node.name or node.output[0], tuple(node.input), tuple(node.output), attributes)


def _needed(steps: Sequence[Step], output: str) -> list[Step]:
    needed, kept = {output}, []
    for step in reversed(steps):
        if needed.intersection(step.outputs):
            needed.update(step.inputs)
            kept.append(step)
    return kept[::-1]
