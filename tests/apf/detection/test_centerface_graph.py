"""The detector's simplified graph: less work, the same maps."""

from __future__ import annotations

import numpy as np
import onnx

from apf.detection.centerface_graph import simplified
from apf.detection.centerface_maps import weights_path
from apf.detection.centerface_onnx import LightCenterFace
from apf.runtime.onnx_session import RuntimeNetwork


def test_a_simplified_network_gives_the_same_maps(portrait: np.ndarray) -> None:
    """Of a real face all four maps agree to rounding, with four convolutions less."""
    picture = portrait[:256, 100:356].transpose(2, 0, 1)[None].astype(np.float32)
    plain = RuntimeNetwork.load(weights_path(), any_size=True)
    quick = RuntimeNetwork.load(weights_path(), any_size=True, simplify=simplified)
    expected, found = plain(input_1=picture), quick(input_1=picture)
    assert list(found) == list(expected)
    assert expected["537"].max() > 0.9
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-4)
    model = onnx.load(weights_path())
    before = sum(node.op_type == "Conv" for node in model.graph.node)
    simplified(model)
    assert sum(node.op_type == "Conv" for node in model.graph.node) == before - 4


def test_the_detector_runs_the_simplified_network() -> None:
    """The maps come from one convolution and its split, not from four."""
    heads = LightCenterFace()._network._model.graph.node
    assert sum("heads" in node.output for node in heads) == 1
