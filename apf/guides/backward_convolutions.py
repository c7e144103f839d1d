"""Gradients of convolutions and pools: a convolution with turned weights, after zeros for the stride."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from apf.guides.backward_rules import Rule
from apf.guides.gradient_tape import Tape
from apf.guides.network_trace import Array, Step


@dataclass(frozen=True)
class Window:
    """Where a kernel lies on a picture of two axes."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    #: Top, left; bottom and right follow from the sizes.
    before: tuple[int, ...]
    sides: tuple[int, ...]
    out: tuple[int, ...]

    @classmethod
    def of(cls, t: Tape, step: Step, kernel: tuple[int, ...]) -> Window:
        """Raise UnsupportedGuide where it does not lie on two axes."""
        sides, out = (t.trace.shapes[name][2:] for name in (step.inputs[0], step.outputs[0]))
        if len(sides) != 2:
            raise step.refuse(f"it lies on {len(sides)} axes, not on a picture's two")
        found = step.attributes
        strides, dilations = (tuple(found.get(name, [1, 1])) for name in ("strides", "dilations"))
        pads = found.get("pads", [0] * 4)[:2]
        auto = found.get("auto_pad", b"NOTSET")
        if auto in (b"SAME_UPPER", b"SAME_LOWER"):
            spans = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
            total = [max(0, (o - 1) * s + n - i) for o, s, n, i in zip(out, strides, spans, sides, strict=True)]
            pads = [(one + (auto == b"SAME_LOWER")) // 2 for one in total]
        return cls(kernel, strides, dilations, tuple(pads), sides, out)


def _convolution(t: Tape, s: Step, g: str) -> None:
    weight = t.trace.constant(s, 1)
    if weight is None:
        raise s.refuse("its weights depend on the face")
    window = Window.of(t, s, weight.shape[2:])
    t.give(s, 0, backwards(t, g, weight, s.attributes.get("group", 1), window))


def backwards(t: Tape, g: str, weight: Array, groups: int, w: Window) -> str:
    """Return the gradient at a convolution's input; weight (out, in / groups, h, w)."""
    strided = set(w.strides) != {1}
    reach = [d * (k - 1) for d, k in zip(w.dilations, w.kernel, strict=True)]
    if any(pad > most for pad, most in zip(w.before, reach, strict=True)) or (strided and groups == 1):
        return _transposed(t, g, weight, groups, w, reach)
    # With the zeros behind the last value: what they add to nothing is padding less.
    spans = [o * s for o, s in zip(w.out, w.strides, strict=True)]
    if strided:
        g = _apart(t, g, w)
    before = [most - pad for most, pad in zip(reach, w.before, strict=True)]
    after = [i + r - b - n for i, r, b, n in zip(w.sides, reach, before, spans, strict=True)]
    if min(after) < 0:
        return t.cut(_turned(t, g, weight, groups, w, before, [max(0, a) for a in after]), _inside(w))
    return _turned(t, g, weight, groups, w, before, after)


def _inside(w: Window) -> dict[int, tuple[int, int]]:
    return {2: (0, w.sides[0]), 3: (0, w.sides[1])}


def _turned(t: Tape, g: str, weight: Array, groups: int, w: Window, before: list[int], after: list[int]) -> str:
    out, each = weight.shape[:2]
    grouped = weight.reshape(groups, out // groups, each, *w.kernel).swapaxes(1, 2)
    kernel = np.ascontiguousarray(grouped.reshape(groups * each, out // groups, *w.kernel)[:, :, ::-1, ::-1])
    more: dict[str, Any] = {"kernel_shape": list(w.kernel), "dilations": list(w.dilations), "group": groups}
    return t.b.add("Conv", g, t.b.constant(kernel), pads=[*before, *after], **more)


def _apart(t: Tape, g: str, w: Window) -> str:
    """Zeros behind each value of a gradient, as many as the stride left out.

    ONNX Runtime takes ten times as long for `Pad`, or for a `ConvTranspose` of many groups.
    """
    nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    large = t.b.add("Resize", g, "", t.b.constant(np.array([1, 1, *w.strides], np.float32)), **nearest)
    first = np.zeros((1, 1, *(side * stride for side, stride in zip(w.out, w.strides, strict=True))), np.float32)
    first[:, :, :: w.strides[0], :: w.strides[1]] = 1
    return t.b.add("Mul", large, t.b.constant(first))


def _transposed(t: Tape, g: str, weight: Array, groups: int, w: Window, reach: list[int]) -> str:
    """ONNX's own, without padding; what lies in the padding is cut off, and what no window reached is zero."""
    geometry: dict[str, Any] = {"strides": list(w.strides), "dilations": list(w.dilations), "group": groups}
    spans = [(o - 1) * s + 1 + r for o, s, r in zip(w.out, w.strides, reach, strict=True)]
    missing = [max(0, pad + side - span) for pad, side, span in zip(w.before, w.sides, spans, strict=True)]
    after = [span + more - pad - side for span, more, pad, side in zip(spans, missing, w.before, w.sides, strict=True)]
    inside = all(more < stride for more, stride in zip(missing, w.strides, strict=True))
    if inside:
        geometry |= {"pads": [*w.before, *after], "output_padding": missing}
        return t.b.add("ConvTranspose", g, t.b.constant(weight), **geometry)
    whole = t.b.add("ConvTranspose", g, t.b.constant(weight), **geometry)
    kept = t.cut(whole, {axis + 2: (pad, pad + w.sides[axis]) for axis, pad in enumerate(w.before)})
    got = [span - pad for span, pad in zip(spans, w.before, strict=True)]
    return t.b.add("Pad", kept, t.whole([0] * 6 + [max(0, i - n) for i, n in zip(w.sides, got, strict=True)]))


def _average(t: Tape, s: Step, g: str) -> None:
    w = Window.of(t, s, tuple(s.attributes["kernel_shape"]))
    channels = t.trace.shapes[s.inputs[0]][1]
    counts = np.full((1, 1, *w.out), np.prod(w.kernel), np.float32)
    if not s.attributes.get("count_include_pad", 0):
        counts = np.multiply.outer(*(_inside_counts(w, axis) for axis in (0, 1)))[None, None].astype(np.float32)
    elif s.attributes.get("ceil_mode", 0):
        raise s.refuse("it counts padding, and rounds its size up")
    share = t.b.add("Mul", g, t.b.constant(np.float32(1) / counts))
    ones = np.ones((channels, 1, *w.kernel), np.float32)
    t.give(s, 0, backwards(t, share, ones, channels, w))


def _inside_counts(w: Window, axis: int) -> Array:
    """How many of a window's places lie inside the picture, by window."""
    places = np.arange(w.out[axis])[:, None] * w.strides[axis] - w.before[axis]
    places = places + np.arange(w.kernel[axis]) * w.dilations[axis]
    found: Array = ((places >= 0) & (places < w.sides[axis])).sum(1)
    return found


def _global_average(t: Tape, s: Step, g: str) -> None:
    count = float(np.prod(t.trace.shapes[s.inputs[0]][2:]))
    t.give(s, 0, t.b.add("Mul", g, t.number(1 / count)), small=True)


def _maximum(t: Tape, s: Step, g: str) -> None:
    shape = t.trace.shapes[s.inputs[0]]
    known = {name: value for name, value in s.attributes.items() if name != "storage_order"}
    places = t.b.pair("MaxPool", s.inputs[0], **known)
    flat = t.b.constant(np.zeros(int(np.prod(shape)), np.float32))
    added = t.b.add("ScatterElements", flat, t.shaped(places, [-1]), t.shaped(g, [-1]), axis=0, reduction="add")
    t.give(s, 0, t.shaped(added, shape))


CONVOLUTIONS: dict[str, Rule] = {
    "Conv": _convolution,
    "AveragePool": _average,
    "GlobalAveragePool": _global_average,
    "MaxPool": _maximum,
}
