"""Gradients of activations."""

from __future__ import annotations

import numpy as np

from apf.guides.backward_rules import Rule
from apf.guides.gradient_tape import Tape
from apf.guides.network_trace import Array, Step


def _relu(t: Tape, s: Step, g: str) -> None:
    t.give(s, 0, t.b.add("Mul", g, t.above(s.outputs[0])))


def _leaky(t: Tape, s: Step, g: str) -> None:
    _sloped(t, s, g, np.array(s.attributes.get("alpha", 0.01), np.float32))


def _prelu(t: Tape, s: Step, g: str) -> None:
    slope = t.trace.constant(s, 1)
    if slope is None:
        raise s.refuse("its slope depends on the face")
    _sloped(t, s, g, slope)


def _sloped(t: Tape, s: Step, g: str, slope: Array) -> None:
    more = t.b.add("Mul", t.above(s.inputs[0]), t.b.constant(1 - slope))
    t.give(s, 0, t.b.add("Mul", g, t.b.add("Add", more, t.b.constant(slope))))


def _clip(t: Tape, s: Step, g: str) -> None:
    t.give(s, 0, t.masked(t.b.add("Equal", s.inputs[0], s.outputs[0]), g))


def _sigmoid(t: Tape, s: Step, g: str) -> None:
    y = s.outputs[0]
    t.give(s, 0, t.b.add("Mul", g, t.b.add("Mul", y, t.b.add("Sub", t.number(1), y))))


def _tanh(t: Tape, s: Step, g: str) -> None:
    y = s.outputs[0]
    t.give(s, 0, t.b.add("Mul", g, t.b.add("Sub", t.number(1), t.b.add("Mul", y, y))))


def _hard_sigmoid(t: Tape, s: Step, g: str) -> None:
    scaled = t.b.add("Mul", g, t.number(s.attributes.get("alpha", 0.2)))
    t.give(s, 0, t.masked(_between(t, s.outputs[0], 0, 1), scaled))


def _hard_swish(t: Tape, s: Step, g: str) -> None:
    # x max(0, min(1, x / 6 + 1 / 2))
    x = s.inputs[0]
    gate = t.b.add("HardSigmoid", x, alpha=1 / 6, beta=0.5)
    slope = t.masked(_between(t, gate, 0, 1), t.b.add("Mul", x, t.number(1 / 6)))
    t.give(s, 0, t.b.add("Mul", g, t.b.add("Add", gate, slope)))


def _between(t: Tape, value: str, low: float, high: float) -> str:
    return t.b.add("And", t.b.add("Greater", value, t.number(low)), t.b.add("Less", value, t.number(high)))


def _elu(t: Tape, s: Step, g: str) -> None:
    # Below zero y = alpha (exp x - 1), so that its slope is y + alpha.
    below = t.b.add("Mul", g, t.b.add("Add", s.outputs[0], t.number(s.attributes.get("alpha", 1.0))))
    above = t.above(s.inputs[0])
    rest = t.b.add("Mul", below, t.b.add("Sub", t.number(1), above))
    t.give(s, 0, t.b.add("Add", t.b.add("Mul", g, above), rest))


ACTIVATIONS: dict[str, Rule] = {
    "Relu": _relu,
    "LeakyRelu": _leaky,
    "PRelu": _prelu,
    "Clip": _clip,
    "Sigmoid": _sigmoid,
    "Tanh": _tanh,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Elu": _elu,
}
