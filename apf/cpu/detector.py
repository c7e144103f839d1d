"""CenterFace on a CPU, by ONNX Runtime."""

from __future__ import annotations

from functools import partial

from apf.cores import side_by_side
from apf.cpu.runtime import RuntimeNetwork
from apf.detectors.pyramid import PyramidDetector
from apf.light.centerface import LightCenterFace


def load_detector() -> PyramidDetector:
    """The default detector; raises DetectorError."""
    return PyramidDetector(LightCenterFace(partial(RuntimeNetwork.load, any_size=True), side_by_side))
