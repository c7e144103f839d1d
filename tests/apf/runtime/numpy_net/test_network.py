"""Networks by NumPy compute what ONNX Runtime computes."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from apf.detection.centerface_maps import weights_path
from apf.errors import WeightsError
from apf.research.export_probe import DIM
from apf.runtime.numpy_net import convolution, network
from apf.runtime.numpy_net.fusion import fused
from apf.runtime.numpy_net.network import Network
from apf.runtime.numpy_net.onnx_file import read_onnx
from apf.weight_files import WEIGHTS_DIR
from tests.apf.runtime.numpy_net.graphs import model, node, of_any_size, reference, values

#: Of BAND_VALUES: one row a band, a few rows, and everything in one.
BANDS = st.sampled_from([1, 300, 2**17])
SIDE = st.integers(1, 14)
SEEDS = st.integers(0, 2**32 - 1)


def load(data: bytes) -> Network:
    with TemporaryDirectory() as folder:
        path = Path(folder, "network.onnx")
        path.write_bytes(data)
        return Network.load(path)


def check(data: bytes, *, band: int = 2**17, **inputs: np.ndarray) -> None:
    """The light network gives what the reference gives."""
    expected = reference(data, **inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "BAND_VALUES", band)
        found = list(load(data)(**inputs).values())
    for own, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(own, other, atol=2e-5, rtol=1e-4)


@given(SIDE, SIDE, st.sampled_from([1, 2, 3, 5]), st.integers(1, 3), st.integers(0, 2), st.booleans(), st.booleans(),
       BANDS, SEEDS)  # fmt: skip
def test_convolution(
    height: int, width: int, kernel: int, stride: int, pad: int, each: bool, bias: bool, band: int, seed: int
) -> None:
    """Conv of any size, stride and padding, each channel by itself or all mixed, with and without bias, any bands."""
    assume(min(height, width) + 2 * pad >= kernel)
    weight = values(seed, 6, 1 if each else 6, kernel, kernel)
    constants = {"w": weight, **({"b": values(seed + 1, 6)} if bias else {})}
    geometry: dict[str, Any] = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
    conv = node("Conv", ["x", *constants], **geometry, group=6 if each else 1)
    check(model([conv], constants, channels=6), band=band, x=values(seed + 2, 1, 6, height, width))


@given(SIDE, SIDE, st.sampled_from([2, 3, 4]), st.integers(1, 2), st.integers(0, 1), st.booleans(), SEEDS)
def test_transposed_convolution(
    height: int, width: int, kernel: int, stride: int, pad: int, each: bool, seed: int
) -> None:
    """ConvTranspose with and without output_padding, each channel by itself or all mixed."""
    more = stride - 1
    assume(min((side - 1) * stride + kernel + more - 2 * pad for side in (height, width)) > 0)
    constants = {"w": values(seed, 6, 1 if each else 4, kernel, kernel), "b": values(seed + 1, 6 if each else 4)}
    geometry: dict[str, Any] = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
    layer = node("ConvTranspose", ["x", "w", "b"], **geometry, group=6 if each else 1, output_padding=[more] * 2)
    check(model([layer], constants, channels=6), x=values(seed + 2, 1, 6, height, width))


def block(
    seed: int, stride: int, kernel: int, pad: int, *, expand_pad: int = 0, outputs: tuple[str, ...] = ("y",)
) -> bytes:
    """MobileNetV2's block: expand, Relu, each by itself, Relu, project."""
    constants = {
        "we": values(seed, 8, 3, 1, 1), "be": values(seed + 1, 8), "wd": values(seed + 2, 8, 1, kernel, kernel),
        "bd": values(seed + 3, 8), "wp": values(seed + 4, 4, 8, 1, 1), "bp": values(seed + 5, 4),
    }  # fmt: skip
    nodes = [
        node("Conv", ["x", "we", "be"], "e", kernel_shape=[1, 1], strides=[1, 1], pads=[expand_pad] * 4),
        node("Relu", ["e"], "f"),
        node("Conv", ["f", "wd", "bd"], "d", kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4, group=8),
        node("Relu", ["d"], "g"),
        node("Conv", ["g", "wp", "bp"], "y", kernel_shape=[1, 1], strides=[1, 1]),
    ]
    return model(nodes, constants, outputs)


def kinds(data: bytes, folder: Path) -> list[str]:
    path = folder / "network.onnx"
    path.write_bytes(data)
    return [step.kind for step in fused(read_onnx(path))]


@given(SIDE, SIDE, st.integers(1, 2), st.sampled_from([(3, 1), (5, 2), (3, 0)]), BANDS, SEEDS)
def test_inverted_residual(
    height: int, width: int, stride: int, kernel_and_pad: tuple[int, int], band: int, seed: int
) -> None:
    """The joined block is right at the picture's edges and at those of its bands.

    Beyond the picture the middle layer is zero, not what the first layer makes of zeros (its bias).
    """
    kernel, pad = kernel_and_pad
    assume(min(height, width) + 2 * pad >= kernel)
    data = block(seed, stride, kernel, pad)
    check(data, band=band, x=values(seed + 9, 1, 3, height, width))


def test_fusion_joins_what_may_be_joined(tmp_path: Path) -> None:
    """A whole block becomes one operation, but for where that would be wrong.

    That is where a value inside it is needed elsewhere, too, or where a kernel of one pixel has a border. Those
    networks give the right values all the same.
    """
    assert kinds(block(0, 1, 3, 1), tmp_path) == ["InvertedResidual"]
    x = values(1, 1, 3, 7, 9)
    for inside, expected in (
        ("e", ["Conv", "Relu", "Conv", "Conv"]),
        ("f", ["Conv", "Conv", "Conv"]),
        ("g", ["Conv", "Conv", "Conv"]),
        ("d", ["Conv", "Conv", "Relu", "Conv"]),
    ):
        data = block(0, 1, 3, 1, outputs=("y", inside))
        assert kinds(data, tmp_path) == expected
        check(data, x=x)
    bordered = block(0, 1, 3, 1, expand_pad=1)
    assert kinds(bordered, tmp_path) == ["Conv", "Conv", "Conv"]
    check(bordered, x=x)


def test_fusion_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """CenterFace joined, a third of its operations, gives what it gives one by one."""
    x = values(0, 1, 3, 64, 96) * 50 + 120
    joined = Network.load(weights_path())
    monkeypatch.setattr(network, "fused", lambda graph: list(graph.nodes))
    single = Network.load(weights_path())
    assert len(joined._steps) < len(single._steps) / 2
    for own, other in zip(joined(input_1=x).values(), single(input_1=x).values(), strict=True):
        np.testing.assert_allclose(own, other, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (96, 32), (224, 416), (32, 1280)])
def test_centerface_maps(height: int, width: int) -> None:
    """The face detector's four maps are those of ONNX Runtime, in sizes of one band and of many."""
    x = np.random.default_rng(0).uniform(0, 255, (1, 3, height, width)).astype(np.float32)
    found, expected = Network.load(weights_path())(input_1=x), reference(of_any_size(weights_path()), input_1=x)
    assert len(found) == len(expected) == 4
    for own, other in zip(found.values(), expected, strict=True):
        np.testing.assert_allclose(own, other, atol=1e-4 * np.abs(other).max())


def test_probe_gradient() -> None:
    """The probe's embedding and gradient are those of ONNX Runtime, also for faces perturbed beyond [0, 1]."""
    path = WEIGHTS_DIR / "probe_gradient.onnx"
    for seed in range(3):
        face = np.random.default_rng(seed).uniform(-0.05, 1.05, (1, 3, 112, 112)).astype(np.float32)
        own = values(seed, 1, DIM)
        found = Network.load(path)(face=face, own=own)
        embedding, away = reference(path, face=face, own=own)
        np.testing.assert_allclose(found["embedding"], embedding, atol=1e-5)
        np.testing.assert_allclose(found["away"], away, atol=1e-4 * np.abs(away).max())


def test_a_part_of_a_network_is_that_part() -> None:
    """The part that one output needs gives the same, and wants no more inputs than it needs."""
    whole = Network.load(WEIGHTS_DIR / "probe_gradient.onnx")
    face, own = np.random.default_rng(0).random((1, 3, 112, 112), np.float32), values(0, 1, DIM)
    part = whole.only("embedding")(face=face)
    assert set(part) == {"embedding"}
    np.testing.assert_array_equal(part["embedding"], whole(face=face, own=own)["embedding"])


@pytest.mark.parametrize("epsilon", [1e-3, 0.5, None])
def test_batch_normalisation_has_the_files_epsilon(epsilon: float | None) -> None:
    """BatchNormalization by its stored statistics, with the epsilon that the file says, or ONNX's own."""
    constants = {"s": values(0, 3), "b": values(1, 3), "m": values(2, 3), "v": np.full(3, 0.01, np.float32)}
    more = {} if epsilon is None else {"epsilon": epsilon}
    check(model([node("BatchNormalization", ["x", *constants], **more)], constants), x=values(3, 1, 3, 4, 5))


CONV: dict[str, Any] = {"kernel_shape": [3, 3]}


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (node("Tanh", ["x"]), "operation Tanh"),
        (node("Conv", ["x", "w"], **CONV, dilations=[2, 2]), "dilations"),
        (node("Conv", ["x", "w"], **CONV, dilations=[1, 2]), "unequal dilations"),
        (node("Conv", ["x", "w"], **CONV, pads=[0, 0, 1, 1]), "unequal pads"),
        (node("Conv", ["x", "w"], **CONV, strides=[1, 2]), "unequal strides"),
        (node("Conv", ["x", "w"], **CONV, auto_pad="SAME_UPPER"), "auto_pad"),
        (node("Conv", ["x", "x"], **CONV), "no constants"),
        (node("Conv", ["x", "grouped"], **CONV, group=2), "2 groups"),
        (node("ConvTranspose", ["x", "w"], **CONV, strides=[2, 2], output_padding=[0, 1]), "unequal output_padding"),
        (node("ConvTranspose", ["x", "grouped"], **CONV, group=2), "2 groups"),
        (node("ConvTranspose", ["x", "w"], **CONV, output_shape=[9, 9]), "output_shape"),
        (node("ReduceSum", ["x", "axes"], keepdims=0), "drops"),
        (node("ReduceSum", ["x"]), "cannot be run"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_known_is_refused(layer: Any, reason: str) -> None:
    """An operation, or a kind of one, that would be computed wrongly is refused when the network is loaded."""
    constants = {"w": values(0, 3, 3, 3, 3), "grouped": values(0, 4, 2, 3, 3), "axes": np.array([1])}
    with pytest.raises(WeightsError, match=reason):
        load(model([layer], constants))
