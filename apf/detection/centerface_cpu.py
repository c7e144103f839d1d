"""CenterFace on a CPU, by ONNX Runtime."""

from __future__ import annotations

from functools import partial

from apf.detection.centerface_onnx import LightCenterFace
from apf.detection.tiling import PyramidDetector
from apf.runtime.cores import side_by_side
from apf.runtime.onnx_session import RuntimeNetwork


def load_detector() -> PyramidDetector:
    """Return the default detector; raises DetectorError."""
    return PyramidDetector(LightCenterFace(partial(RuntimeNetwork.load, any_size=True), side_by_side))
