"""A student as an ONNX file that is a guide like any other; half precision of its weights is enough."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from torch import Tensor, nn

from apf.guides.input_spec import InputSpec
from apf.research.train.student import Part, Student, both
from apf.runtime.onnx_builder import Builder


def guide_onnx(student: Student, spec: InputSpec, teacher: str) -> onnx.ModelProto:
    """Return the network from `face` (1, 3, height, width), fed as the spec says, to `embedding` (1, D).

    Args:
        teacher: SHA-256 of the file of the recogniser that it imitates.
    """
    b, x = Builder(), "face"
    for part in student.each:
        x = _part(b, part, x)
    dim = student.each[-1].stage.outputs
    b.add("Flatten", x, axis=1, name="embedding")
    inputs = [helper.make_tensor_value_info("face", TensorProto.FLOAT, ["N", 3, spec.height, spec.width])]
    model = b.model("guide", inputs, [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", dim])])
    helper.set_model_props(model, {"spec": spec.model_dump_json(), "teacher": teacher})
    return model


def write_guide(path: Path, student: Student, spec: InputSpec, teacher: str) -> None:
    """Write the file, and beside it, as NAME.json, how it is fed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(guide_onnx(student, spec, teacher).SerializeToString(deterministic=True))
    path.with_suffix(".json").write_text(spec.model_dump_json() + "\n")


def _part(b: Builder, part: Part, x: str) -> str:
    expand, depth, project = ([_half(b, tensor) for tensor in pair] for pair in part.folded())
    first, second = part.strides
    around = [int(side) for side in part.depth.padding] * 2
    edge = [int(side) for side in part.expand.padding] * 2
    y = b.add("Relu", b.add("Conv", x, *expand, strides=[first] * 2, pads=edge))
    y = b.add("Conv", y, *depth, strides=[second] * 2, pads=around, group=part.depth.groups)
    if part.stage.side_out > 1:
        y = b.add("Relu", y)
    y = b.add("Conv", y, *project)
    if part.gate is not None:
        y = b.add("Mul", y, _gate(b, part.gate, y))
    return b.add("Add", x, y) if part.stage.residual else y


def _gate(b: Builder, gate: nn.Sequential, x: str) -> str:
    first, second = ([_half(b, tensor) for tensor in both(layer)] for layer in (gate[0], gate[2]))
    narrow = b.add("Relu", b.add("Conv", b.add("GlobalAveragePool", x), *first))
    return b.add("Sigmoid", b.add("Conv", narrow, *second))


def _half(b: Builder, tensor: Tensor) -> str:
    return b.add("Cast", b.constant(tensor.detach().numpy().astype(np.float16)), to=TensorProto.FLOAT)
