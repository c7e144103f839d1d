"""The engine for private batches: gradient files in, perturbation files out. No photo, no detector, no image library.

Gradient files are anybody's bytes, but safetensors, which is read without running anything: their header is bounded
before it is parsed, the arrays are never larger than the file, and each value is a whole number of a few bits. So they
need no process of their own, as photos' decoders do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from apf.filters.load import load_filter
from apf.private.files import CONTENT_TYPE, Gradients, Int8, Perturbations
from apf.private.server import check_terms, perturb
from apf.recipe import Recipe, check_private
from apf.runtime.stage_clock import StageClock
from workers.config.settings import Settings
from workers.execution.engine import Cost, placement
from workers.store.media_types import MEGAPIXELS_PER_GRADIENT

#: Of a face's perturbation: as it is, and encoded.
BYTES_PER_PERTURBATION = 2 * 3 * 112 * 112


@dataclass(frozen=True)
class Perturbed:
    """A perturbation file that is to be written."""

    perturbations: Perturbations

    @property
    def faces(self) -> Int8:
        return self.perturbations.units

    @property
    def outcome(self) -> Literal["protected", "no_face"]:
        return "protected" if self.perturbations.faces else "no_face"


class GradientEngine:
    """The server's part of private mode (`apf.private.server`) on this machine's device.

    Raises:
        ApfError: the weights are not the recipe's, or it has no gradient stage.
    """

    def __init__(self, recipe: Recipe, settings: Settings) -> None:
        check_private(recipe)
        self._filter = load_filter(recipe, **placement(settings))
        #: Its files share the filter's batches, and on a CPU the filter itself uses all cores.
        self.lanes = 1

    def estimate_cost(self, data: bytes) -> Cost:
        file = self._decoded(data)
        return Cost(
            content_type=CONTENT_TYPE,
            held=len(data) + file.faces * BYTES_PER_PERTURBATION,
            megapixels=0.0,
            work=file.faces * MEGAPIXELS_PER_GRADIENT,
        )

    def decode(self, data: bytes) -> Gradients:
        return self._decoded(data)

    def protect(self, files: Sequence[Gradients], clock: StageClock) -> list[Perturbed]:
        return [Perturbed(made) for made in perturb(files, self._filter, clock)]

    def encode(self, result: Perturbed) -> bytes:
        return result.perturbations.encode()

    def _decoded(self, data: bytes) -> Gradients:
        """Read a gradient file of this recipe, at the cost of a copy; raise PrivateFileError where it is none."""
        file = Gradients.decode(data)
        check_terms(file, self._filter)
        return file
