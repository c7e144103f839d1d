"""What looks at photos before and after: a detector, and the probe's embedding of a face. Without torch."""

from __future__ import annotations

from apf.cpu.runtime import RuntimeNetwork
from apf.cpu.sampling import SparseSampling
from apf.detect import Detector, load_detector
from apf.faces import Float32
from apf.private.probe import LightProbe


class CpuEyes:
    """A recipe's detector, and this installation's probe.

    Raises:
        WeightsError, DetectorError: they are missing or damaged.
    """

    def __init__(self, detector: str) -> None:
        self.detector: Detector = load_detector(detector)
        self._probe = LightProbe(load=RuntimeNetwork.load, sampling=SparseSampling.of)

    def embedding(self, face: Float32) -> Float32:
        """The unit embedding, (320,), of a face (3, 112, 112) float32 RGB in [0, 1]."""
        return self._probe.embedding(face)
