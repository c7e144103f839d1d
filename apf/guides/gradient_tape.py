"""The graph under construction, and the gradients gathered at its values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from onnx import TensorProto

from apf.guides.network_trace import Step, Trace
from apf.runtime.onnx_builder import Builder

#: A ramp as steep as this is a step: it is 1 from the smallest float that is worked with.
STEEP = 2.0**126


class Tape:
    """Gradients by value, while a network is gone through backwards."""

    def __init__(self, builder: Builder, found: Trace) -> None:
        self.b, self.trace = builder, found
        self._active = {found.input} | {name for step in found.steps for name in step.outputs}
        #: Of each value: the names of gradients, and whether they only broadcast to its shape.
        self._given: defaultdict[str, list[tuple[str, bool]]] = defaultdict(list)

    def wants(self, step: Step, index: int) -> bool:
        """Return whether a step's input depends on the face."""
        return index < len(step.inputs) and step.inputs[index] in self._active

    def start(self, value: str, gradient: str) -> None:
        """Set the gradient at the network's output."""
        self._given[value].append((gradient, False))

    def give(self, step: Step, index: int, gradient: str, *, small: bool = False) -> None:
        """Add a gradient to those of a step's input; `small`: its shape only broadcasts to the input's."""
        if self.wants(step, index):
            self._given[step.inputs[index]].append((gradient, small))

    def give_summed(self, step: Step, index: int, gradient: str) -> None:
        """As `give`, of a gradient in the shape of the step's output, to which the input was broadcast."""
        if not self.wants(step, index):
            return
        whole, own = (self.trace.shapes[name] for name in (step.outputs[0], step.inputs[index]))
        padded = [1] * (len(whole) - len(own)) + list(own)
        axes = [axis for axis, (side, mine) in enumerate(zip(whole, padded, strict=True)) if side != mine]
        if axes:
            gradient = self.b.add("ReduceSum", gradient, self.whole(axes), keepdims=1)
        self.give(step, index, gradient if len(whole) == len(own) else self.shaped(gradient, own))

    def taken(self, value: str) -> str | None:
        """Return the sum of all gradients at a value, in its shape; None where there is none."""
        given = sorted(self._given.pop(value, []), key=lambda one: one[1])
        if not given:
            return None
        total = given[0][0]
        for other, _ in given[1:]:
            total = self.b.add("Add", total, other)
        return self.b.add("Expand", total, self.whole(self.trace.shapes[value])) if given[0][1] else total

    def number(self, value: float) -> str:
        return self.b.number(value)

    def whole(self, values: Sequence[int]) -> str:
        return self.b.constant(np.array(values, np.int64))

    def masked(self, mask: str, gradient: str) -> str:
        """Return the gradient where a mask holds, else 0: ONNX Runtime's `Where` takes ten times as long."""
        return self.b.add("Mul", gradient, self.b.add("Cast", mask, to=TensorProto.FLOAT))

    def above(self, value: str) -> str:
        """1 where a value is above zero, else 0, by the quickest of ONNX Runtime's operations."""
        return self.b.add("HardSigmoid", value, alpha=STEEP, beta=0.0)

    def shaped(self, value: str, shape: Sequence[int]) -> str:
        return self.b.add("Reshape", value, self.whole(shape))

    def cut(self, value: str, places: Mapping[int, tuple[int, int]]) -> str:
        """Return a part of a value: by axis, from where to where."""
        starts, ends = zip(*places.values(), strict=True)
        return self.b.add("Slice", value, self.whole(starts), self.whole(ends), self.whole(list(places)))

    def turned(self, value: str, order: Sequence[int]) -> str:
        """Return a value with its axes in another order; a constant's are put so beforehand."""
        known = self.trace.constants.get(value)
        if known is None:
            return self.b.add("Transpose", value, perm=list(order))
        return self.b.constant(np.ascontiguousarray(known.transpose(order)))
