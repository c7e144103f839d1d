"""The `Detector` protocol, and `load_detector` by name.

With CenterFace, all of six real faces are found upright from 32 pixels of height in a photo of 1 megapixel (four to six
at 20, by where they lie), and from 48 in one of 12 megapixels; upside down, not all even at 200:
`tests/benchmarks/bench_detector.py`. Photos of up to 3 megapixels are looked at in full; in larger ones the smallest
face grows with the photo's side. YuNet finds fewer of small and of turned faces, in a third of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from apf.detection.tiling import PyramidDetector
from apf.extras import extra_for, need
from apf.faces.alignment import Face, UInt8
from apf.guides.catalogue import YUNET

__all__ = ["Detector", "load_detector", "load_light_detector"]

#: The default.
CENTERFACE = "centerface"


class Detector(Protocol):
    """Finds faces in photos."""

    def detect(self, images: Sequence[UInt8]) -> list[list[Face]]:
        """Return the faces of each (H, W, 3) uint8 RGB photo, of any size. None depends on the other photos."""
        ...


def load_detector(name: str, device: str = "cpu") -> Detector:
    """Return the detector "centerface", "yunet", or that of an InsightFace pack by name or folder, on a device as torch
    names it.

    "yunet" is fetched where it is not here yet, and runs on the CPU, whatever the device.

    Raises:
        DetectorError: there is no such pack, or it cannot be fetched or loaded.
        MissingExtra: what runs it is not installed.
    """
    need(extra_for(device), f"detector {name!r} on device {device!r}")
    if name == CENTERFACE and device != "cpu":
        from apf.detection.centerface_torch import CenterFace  # noqa: PLC0415  each has libraries of its own

        return PyramidDetector(CenterFace(device))
    if light := load_light_detector(name):
        return light
    from apf.detection.insightface_pack import InsightFacePack  # noqa: PLC0415

    return PyramidDetector(InsightFacePack(name, device))


def load_light_detector(name: str) -> Detector | None:
    """Return a detector that ONNX Runtime alone runs, on the CPU; None where the name is of another.

    Raises:
        DetectorError: it cannot be fetched or loaded.
    """
    if name == CENTERFACE:
        from apf.detection.centerface_onnx import light_detector  # noqa: PLC0415

        return light_detector()
    if name == YUNET.name:
        from apf.detection.yunet import YuNet  # noqa: PLC0415

        return PyramidDetector(YuNet())
    return None
