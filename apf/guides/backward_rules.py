"""Gradients of operations: from the gradient at an output to those at its inputs.

A rule may give a gradient in a shape that only broadcasts to its input's, as long as it says so (`Tape.give`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from apf.guides.gradient_tape import Tape
from apf.guides.network_trace import Step

#: Takes the names of the gradients at the step's outputs.
Rule = Callable[[Tape, Step, str], None]


def _add(t: Tape, s: Step, g: str) -> None:
    for index in (0, 1):
        t.give_summed(s, index, g)


def _sub(t: Tape, s: Step, g: str) -> None:
    t.give_summed(s, 0, g)
    if t.wants(s, 1):
        t.give_summed(s, 1, t.b.add("Neg", g))


def _mul(t: Tape, s: Step, g: str) -> None:
    for index in (0, 1):
        if t.wants(s, index):
            t.give_summed(s, index, t.b.add("Mul", g, s.inputs[1 - index]))


def _div(t: Tape, s: Step, g: str) -> None:
    first = t.b.add("Div", g, s.inputs[1])
    t.give_summed(s, 0, first)
    if t.wants(s, 1):
        t.give_summed(s, 1, t.b.add("Neg", t.b.add("Mul", first, s.outputs[0])))


def _pow(t: Tape, s: Step, g: str) -> None:
    power = t.trace.constant(s, 1)
    if power is None or power.size != 1:
        raise s.refuse("its exponent is not one number")
    p = float(power.ravel()[0])
    slope = t.b.add("Mul", t.b.add("Pow", s.inputs[0], t.number(p - 1)), t.number(p))
    t.give(s, 0, t.b.add("Mul", g, slope))


def _neg(t: Tape, s: Step, g: str) -> None:
    t.give(s, 0, t.b.add("Neg", g))


def _abs(t: Tape, s: Step, g: str) -> None:
    t.give(s, 0, t.b.add("Mul", g, t.b.add("Sign", s.inputs[0])))


def _exp(t: Tape, s: Step, g: str) -> None:
    t.give(s, 0, t.b.add("Mul", g, s.outputs[0]))


def _sqrt(t: Tape, s: Step, g: str) -> None:
    t.give(s, 0, t.b.add("Div", t.b.add("Mul", g, t.number(0.5)), s.outputs[0]))


def _same(t: Tape, s: Step, g: str) -> None:
    t.give(s, 0, g)


def _cast(t: Tape, s: Step, g: str) -> None:
    if s.attributes["to"] != 1:  # TensorProto.FLOAT
        raise s.refuse("only 32-bit floats are computed with")
    t.give(s, 0, g)


def _norm(t: Tape, s: Step, g: str) -> None:
    scale, _, _, variance = (t.trace.constant(s, index) for index in range(1, 5))
    if scale is None or variance is None or s.attributes.get("training_mode", 0):
        raise s.refuse("it is not frozen")
    slope = scale / np.sqrt(variance + np.float32(s.attributes.get("epsilon", 1e-5)))
    rank = len(t.trace.shapes[s.inputs[0]])
    t.give(s, 0, t.b.add("Mul", g, t.b.constant(slope.astype(np.float32).reshape(-1, *[1] * (rank - 2)))))


def _reshaped(t: Tape, s: Step, g: str) -> None:
    t.give(s, 0, t.shaped(g, t.trace.shapes[s.inputs[0]]))


def _transpose(t: Tape, s: Step, g: str) -> None:
    rank = len(t.trace.shapes[s.inputs[0]])
    order = s.attributes.get("perm", list(range(rank))[::-1])
    t.give(s, 0, t.b.add("Transpose", g, perm=[int(place) for place in np.argsort(order)]))


def _pad(t: Tape, s: Step, g: str) -> None:
    rank = len(t.trace.shapes[s.inputs[0]])
    pads, axes = t.trace.whole(s, "pads", 1), t.trace.whole(s, "axes", 3) or list(range(rank))
    if s.attributes.get("mode", b"constant") != b"constant" or pads is None or min(pads) < 0:
        raise s.refuse("only padding with constants is known")
    shape = t.trace.shapes[s.inputs[0]]
    t.give(s, 0, t.cut(g, {axis: (before, before + shape[axis]) for axis, before in zip(axes, pads, strict=False)}))


def _slice(t: Tape, s: Step, g: str) -> None:
    shape = t.trace.shapes[s.inputs[0]]
    starts, ends = t.trace.whole(s, "starts", 1), t.trace.whole(s, "ends", 2)
    if starts is None or ends is None:
        raise s.refuse("it names no place")
    axes = t.trace.whole(s, "axes", 3) or list(range(len(starts)))
    if set(t.trace.whole(s, "steps", 4) or [1]) != {1}:
        raise s.refuse("it takes steps other than 1")
    before, after = [0] * len(shape), [0] * len(shape)
    for axis, start, end in zip(axes, starts, ends, strict=True):
        first, last, _ = slice(start, end).indices(shape[axis])
        before[axis], after[axis] = first, shape[axis] - max(first, last)
    t.give(s, 0, t.b.add("Pad", g, t.whole([*before, *after])))


def _concat(t: Tape, s: Step, g: str) -> None:
    at, axis = 0, s.attributes["axis"]
    for index, name in enumerate(s.inputs):
        end = at + t.trace.shapes[name][axis]
        if t.wants(s, index):
            t.give(s, index, t.cut(g, {axis: (at, end)}))
        at = end


def _mean(t: Tape, s: Step, g: str) -> None:
    count = np.prod(t.trace.shapes[s.inputs[0]]) / np.prod(t.trace.shapes[s.outputs[0]])
    _spread(t, s, t.b.add("Mul", g, t.number(1 / float(count))))


def _spread(t: Tape, s: Step, g: str) -> None:
    """Write the gradient of what was summed up over some axes."""
    t.give(s, 0, t.shaped(g, _kept(t, s)), small=True)


def _l2(t: Tape, s: Step, g: str) -> None:
    share = t.shaped(t.b.add("Div", g, s.outputs[0]), _kept(t, s))
    t.give(s, 0, t.b.add("Mul", s.inputs[0], share))


def _kept(t: Tape, s: Step) -> list[int]:
    """Return the shape of a reduction's result, with the axes that it may have dropped."""
    shape = t.trace.shapes[s.inputs[0]]
    axes = t.trace.whole(s, "axes", 1)
    gone = {axis % len(shape) for axis in (axes if axes is not None else range(len(shape)))}
    return [1 if axis in gone else side for axis, side in enumerate(shape)]


def _gemm(t: Tape, s: Step, g: str) -> None:
    weight = t.trace.constant(s, 1)
    if weight is None or s.attributes.get("transA", 0) or t.wants(s, 2):
        raise s.refuse("only a face's features times constant weights are known")
    weight = weight if s.attributes.get("transB", 0) else weight.T
    scaled = np.float32(s.attributes.get("alpha", 1.0)) * weight
    t.give(s, 0, t.b.add("MatMul", g, t.b.constant(scaled.astype(np.float32))))


def _matmul(t: Tape, s: Step, g: str) -> None:
    first, second = (t.trace.shapes[name] for name in s.inputs)
    if len(first) != len(second) or len(first) < 2 or first[:-2] != second[:-2]:
        raise s.refuse(f"the product of {first} and {second} is not known")
    order = [*range(len(first) - 2), len(first) - 1, len(first) - 2]
    if t.wants(s, 0):
        t.give(s, 0, t.b.add("MatMul", g, t.turned(s.inputs[1], order)))
    if t.wants(s, 1):
        t.give(s, 1, t.b.add("MatMul", t.turned(s.inputs[0], order), g))


ARITHMETIC: dict[str, Rule] = {
    "Add": _add,
    "Sub": _sub,
    "Mul": _mul,
    "Div": _div,
    "Pow": _pow,
    "Neg": _neg,
    "Abs": _abs,
    "Exp": _exp,
    "Sqrt": _sqrt,
    "Identity": _same,
    "Dropout": _same,
    "Cast": _cast,
    "BatchNormalization": _norm,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshaped),
    "Transpose": _transpose,
    "Pad": _pad,
    "Slice": _slice,
    "Concat": _concat,
    "ReduceMean": _mean,
    "ReduceSum": _spread,
    "ReduceL2": _l2,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
