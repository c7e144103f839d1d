"""The `Detector` protocol, and `load_detector` by name.

With CenterFace, all of six real faces are found upright from 32 pixels of height in a photo of 1 megapixel (four to six
at 20, by where they lie), and from 48 in one of 12 megapixels; upside down, not all even at 200:
`tests/benchmarks/bench_detector.py`. Photos of up to 3 megapixels are looked at in full; in larger ones the smallest
face grows with the photo's side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from apf.detection.tiling import PyramidDetector
from apf.extras import extra_for, need
from apf.faces.alignment import Face, UInt8

__all__ = ["Detector", "load_detector"]


class Detector(Protocol):
    """Finds faces in photos."""

    def detect(self, images: Sequence[UInt8]) -> list[list[Face]]:
        """Return the faces of each (H, W, 3) uint8 RGB photo, of any size. None depends on the other photos."""
        ...


def load_detector(name: str, device: str = "cpu") -> Detector:
    """Return the detector "centerface", or that of an InsightFace pack by name or folder, on a device as torch names
    it.

    Raises:
        DetectorError: there is no such pack, or it cannot be loaded.
        MissingExtra: what runs it is not installed.
    """
    need(extra_for(device), f"detector {name!r} on device {device!r}")
    if name != "centerface":
        from apf.detection.insightface_pack import InsightFacePack  # noqa: PLC0415  each has libraries of its own

        return PyramidDetector(InsightFacePack(name, device))
    if device == "cpu":
        from apf.detection.centerface_onnx import light_detector  # noqa: PLC0415

        return light_detector()
    from apf.detection.centerface_torch import CenterFace  # noqa: PLC0415

    return PyramidDetector(CenterFace(device))
