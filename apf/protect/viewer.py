"""A detector and a recogniser that look at photos before and after. Without torch."""

from __future__ import annotations

from apf.attack.gradient_steps import identity
from apf.detection.detector import Detector, load_detector
from apf.faces.alignment import Float32
from apf.guides.loading import load_guide
from apf.recipe import Recipe


class CpuEyes:
    """A recipe's detector, and the first of its guides; the probe where it has none.

    The steps climbed on that very recogniser: what it says is that they arrived, not that others are fooled, too.

    Raises:
        GuideError, WeightsError, DetectorError: they are missing or damaged.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.detector: Detector = load_detector(recipe.detector)
        self._guide = load_guide(next(iter(recipe.guides), "probe"))
        #: The recogniser's name.
        self.name: str = self._guide.name

    def embedding(self, face: Float32) -> Float32:
        """Return the unit embedding of a face (3, 112, 112) float32 RGB in [0, 1], from the middle of all faces."""
        return identity(self._guide, face)
