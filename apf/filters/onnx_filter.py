"""The filter on a CPU: `apf.filters.torch_filter` by ONNX Runtime and NumPy, without torch.

It gives what the filter by torch gives, up to rounding. Each face runs on one thread, as many at once as there are
cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apf.attack.perturbation import Change, change_of
from apf.attack.protect_face import Hidden, Task, hide
from apf.attack.recipe_guides import Guides, load_guides
from apf.detection.detector import Detector, load_detector
from apf.faces.alignment import CROP
from apf.recipe import DEFAULT_RECIPE, Recipe, ready_recipe
from apf.runtime.cores import side_by_side
from apf.runtime.onnx_session import RuntimeNetwork
from apf.runtime.stage_clock import StageClock
from apf.stages.constants import CHANNELS
from apf.stages.numpy_gradient import LightProbe
from apf.stages.sparse_sampling import SparseSampling
from apf.weight_files import WEIGHTS_DIR

Float32 = NDArray[np.float32]

TRANSFER_ONNX = "transfer.onnx"


class CpuFilter:
    """The three modules with their weights. Make one with `CpuFilter.load`; threads may share it."""

    #: A photo at a time for each core: batches bring nothing.
    batched = False

    def __init__(self, recipe: Recipe, folder: Path = WEIGHTS_DIR) -> None:
        self.recipe = recipe
        self._probe = LightProbe(folder, sampling=SparseSampling.of)
        self._transfer = RuntimeNetwork.load(folder / TRANSFER_ONNX)

    @classmethod
    def load(cls, recipe: str | Path | Recipe = DEFAULT_RECIPE) -> CpuFilter:
        """Return the filter of a recipe (a built-in name, a TOML file, or a Recipe) with the weights that ship.

        Raises:
            RecipeError: the recipe is unknown or does not validate.
            OtherVersion: the recipe was made for other weights, or by code that does something else to pixels.
            WeightsError: the weights are missing or damaged.
        """
        return cls(ready_recipe(recipe))

    @cached_property
    def detector(self) -> Detector:
        """The recipe's face detector, loaded on first use; raises DetectorError."""
        return load_detector(self.recipe.detector)

    @cached_property
    def guides(self) -> Guides:
        """The recipe's guides, loaded on first use; raises GuideError."""
        return load_guides(self.recipe)

    def perturb(self, crops: Sequence[Float32], clock: StageClock | None = None) -> list[Float32]:
        """As `changes`, but the perturbations alone, (3, 112, 112), no value larger than the recipe's epsilon."""
        return [delta for delta, _ in self._answers(crops, clock)]

    def changes(self, crops: Sequence[Float32], clock: StageClock | None = None) -> list[Change]:
        """Return what is to be done to each face, independent of the faces around it.

        Args:
            crops: (3, 112, 112) float32 RGB in [0, 1] each, aligned to the ArcFace template.
            clock: takes the seconds of "gradient", "transfer" and "universal".

        Raises:
            ValueError: a face has another shape or type, or leaves [0, 1].
        """
        found = self._answers(crops, clock)
        return [
            change_of(delta, self.recipe.epsilon, crop, momentum)
            for crop, (delta, momentum) in zip(crops, found, strict=True)
        ]

    def _answers(self, crops: Sequence[Float32], clock: StageClock | None) -> list[tuple[Float32, Float32 | None]]:
        for crop in crops:
            _check(crop)
        return side_by_side(partial(self._of_face, clock=clock or StageClock()), crops)

    def hide(self, tasks: Sequence[Task], clock: StageClock | None = None) -> list[Hidden]:
        """As `apf.attack.protect_face.hide`, by the recipe and its guides."""
        return hide(tasks, self.recipe, self.guides, clock)

    def perturb_from(self, gradients: Float32, clock: StageClock | None = None) -> Float32:
        """Return the perturbation of faces that are not here, from their gradients: transfer, universal and bound.

        Args:
            gradients: (B, 6, 112, 112) float32, as `apf.stages.gradient.gradient` gives them; B may be 0.
            clock: takes the seconds of "transfer" and "universal".

        Returns:
            (B, 3, 112, 112) float32; no value is larger than the recipe's epsilon.

        Raises:
            ValueError: the gradients have another shape, or are not finite.
        """
        if gradients.ndim != 4 or gradients.shape[1:] != (CHANNELS, CROP, CROP):
            raise ValueError(f"gradients must be (B, {CHANNELS}, {CROP}, {CROP}), not {gradients.shape}")
        if not np.isfinite(gradients).all():
            raise ValueError("gradients must be finite")
        deltas = side_by_side(partial(self._finish, clock=clock or StageClock()), list(gradients))
        return np.stack(deltas) if deltas else np.zeros((0, 3, CROP, CROP), np.float32)

    def _of_face(self, crop: Float32, clock: StageClock) -> tuple[Float32, Float32 | None]:
        """Return the perturbation, and the gradient stage's momentum where that stage runs."""
        if "gradient" not in self.recipe.stages:
            return self._finish(None, clock), None
        with clock.stage("gradient"):
            gradient = self._probe.gradient(crop, self.recipe.epsilon, self.recipe.stages)
        return self._finish(gradient, clock), gradient[CHANNELS // 2 :]

    def _finish(self, gradient: Float32 | None, clock: StageClock) -> Float32:
        """As `apf.stages.compose.finish`, of one face: (6, 112, 112) or None to (3, 112, 112)."""
        stages, parts = self.recipe.stages, []
        if "universal" in stages:
            parts.append(self._probe.universal)
        if gradient is not None and "transfer" in stages:
            with clock.stage("transfer"):
                parts.append(self._transfer(gradient=gradient[None])["perturbation"][0])
        elif gradient is not None:
            parts = [np.arctanh(gradient[:3].clip(-0.999, 0.999))]  # it went on from the universal part
        with clock.stage("universal"):
            return _bounded(parts, self.recipe.epsilon)


def _bounded(parts: Sequence[Float32], epsilon: float) -> Float32:
    """As `apf.stages.universal.combine`: the sum, bounded by tanh and by what float32 makes of epsilon."""
    bound = np.float32(epsilon)
    limit = np.nextafter(bound, np.float32(0))
    delta: Float32 = np.clip(bound * np.tanh(np.sum(parts, axis=0, dtype=np.float32)), -limit, limit)
    return delta


def _check(crop: Float32) -> None:
    if crop.shape != (3, CROP, CROP) or crop.dtype != np.float32:
        raise ValueError(f"a face must be (3, {CROP}, {CROP}) float32 in [0, 1], not {crop.shape} {crop.dtype}")
    if not (crop.min() >= 0 and crop.max() <= 1):
        raise ValueError(f"a face must lie in [0, 1], not in [{crop.min():.3g}, {crop.max():.3g}]")
