"""A teacher with its maps in between: where all that it knows of a face lies in one map, a student's stage may end."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx2torch import convert
from torch import Tensor, nn

from apf.guides.guide import Source
from apf.guides.input_spec import InputSpec
from apf.guides.loading import find_source
from apf.guides.network_trace import trace
from apf.research.train.student import Stage

#: Operations that shape what is learnt; between two ends of stages lies at least one.
WEIGHTY = {"Conv", "Gemm", "MatMul"}
#: Axes of a map of one face: channels, height, width.
MAP = 3
POOLS = {"GlobalAveragePool", "ReduceMean", "AveragePool"}


@dataclass(frozen=True)
class Cut:
    """A value through which all that the network computes passes."""

    name: str
    shape: tuple[int, ...]
    #: Whether paths join here, or part.
    joins: bool
    parts: bool
    #: Operations since the cut before.
    operations: tuple[str, ...]


class TappedTeacher(nn.Module):
    """A recogniser in stages: what leads from each map to the next, as modules that gradients flow through."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source: Source = find_source(str(path))
        self.spec: InputSpec = self.source.spec
        model = onnx.ModelProto()
        model.CopyFrom(self.source.model)
        ends, self.stages = _stages(model, (self.spec.height, self.spec.width))
        starts = [model.graph.input[0].name, *ends[:-1]]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # onnx2torch speaks of tracing, which we never do
            extractor = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(model))
            cut = [extractor.extract_model([start], [end]) for start, end in zip(starts, ends, strict=True)]
            self.parts = nn.ModuleList(convert(one) for one in cut)
        self.requires_grad_(False).eval()

    def maps(self, fed: Tensor) -> list[Tensor]:
        """Its maps (B, C, h, w) of fed faces (B, 3, height, width); the embedding, (B, D, 1, 1), is the last."""
        found = []
        for part in self.parts:
            fed = part(fed)
            found.append(fed.float())
        found[-1] = found[-1].reshape(len(fed), -1, 1, 1)
        return found

    def forward(self, fed: Tensor) -> Tensor:
        """Embeddings (B, D)."""
        return self.maps(fed)[-1].flatten(1)


def _stages(model: onnx.ModelProto, size: tuple[int, int]) -> tuple[list[str], list[Stage]]:
    """Return the names of the maps that stages end at, and the stages."""
    ends = _ends(_cuts(model, size))
    stages: list[Stage] = []
    channels, side = 3, size[0]
    for cut in ends:
        outputs, side_out = cut.shape[0], cut.shape[1] if len(cut.shape) == MAP else 1
        same = (channels, side) == (outputs, side_out)
        gated = side_out > 1 and bool(POOLS & set(cut.operations))
        stages.append(Stage(channels, outputs, side, side_out, cut.joins and same and "Add" in cut.operations, gated))
        channels, side = outputs, side_out
    return [cut.name for cut in ends], stages


def _ends(cuts: list[Cut]) -> list[Cut]:
    """Of all cuts, those where a stage may end, with all operations since the end before: where paths join or part,
    before the map grows, and the embedding.
    """
    found: list[Cut] = []
    operations: tuple[str, ...] = ()
    for cut, after in zip(cuts, [*cuts[1:], None], strict=True):
        operations += cut.operations
        whole = after is None or (len(cut.shape) == MAP and cut.shape[1] > 1)
        grows = after is not None and int(np.prod(after.shape)) > int(np.prod(cut.shape))
        if not whole or not (after is None or cut.joins or cut.parts or grows):
            continue
        if after is None or WEIGHTY & set(operations):
            found.append(replace(cut, operations=operations))
            operations = ()
        elif found and found[-1].shape == cut.shape:  # the same map, scaled: what follows sees this one
            found[-1] = replace(cut, joins=found[-1].joins, operations=found[-1].operations)
    return found


def _cuts(model: onnx.ModelProto, size: tuple[int, int]) -> list[Cut]:
    """Return the values that all paths share, in the network's order."""
    given = model.graph.input[0]
    traced = trace(model, size)
    shapes = {name.removeprefix("network/"): shape[1:] for name, shape in traced.shapes.items()}
    depends, last_use, steps = {given.name}, {}, []
    for number, node in enumerate(model.graph.node):
        if used := [name for name in node.input if name in depends]:
            depends.update(node.output)
            last_use.update(dict.fromkeys(used, number))
            steps.append((number, node))
    live, parted = {given.name}, False
    found: list[Cut] = []
    operations: list[str] = []
    for number, node in steps:
        operations.append(node.op_type)
        live = {name for name in live if last_use.get(name, -1) > number} | set(node.output)
        if len(live) > 1:
            if not parted and found:
                found[-1] = replace(found[-1], parts=True)
            parted = True
            continue
        name = next(iter(live))
        found.append(Cut(name, shapes.get(name, ()), parted, False, tuple(operations)))
        operations, parted = [], False
    return found
