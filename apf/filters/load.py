"""`load_filter`: a recipe's filter for the device at hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from apf.extras import extra_for, need
from apf.faces.alignment import Float32
from apf.recipe import DEFAULT_RECIPE, Recipe, load_recipe
from apf.runtime.stage_clock import StageClock

if TYPE_CHECKING:
    from apf.attack.perturbation import Change
    from apf.attack.protect_face import Hidden, Task
    from apf.attack.recipe_guides import Guides
    from apf.detection.detector import Detector
    from apf.filters.precision import Precision


class PhotoFilter(Protocol):
    """A filter of photos: `apf.Filter` on a GPU, `apf.filters.onnx_filter.CpuFilter` without one."""

    recipe: Recipe
    #: Whether several photos at once are faster than one after the other.
    batched: bool

    @property
    def detector(self) -> Detector: ...

    @property
    def guides(self) -> Guides: ...

    def changes(self, crops: Sequence[Float32], clock: StageClock | None = None) -> list[Change]:
        """Return what is to be done to each face, (3, 112, 112) float32 RGB in [0, 1], independent of the faces around
        it.
        """
        ...

    def hide(self, tasks: Sequence[Task], clock: StageClock | None = None) -> list[Hidden]:
        """Return what is done to faces by the recipe's steps; none depends on the others."""
        ...

    def perturb_from(self, gradients: Float32, clock: StageClock | None = None) -> Float32:
        """Return the perturbations (B, 3, 112, 112) of faces that are not here, from their gradients (B, 6, 112,
        112).
        """
        ...


def load_filter(
    recipe: str | Path | Recipe = DEFAULT_RECIPE,
    device: str = "cpu",
    *,
    precision: Precision = "auto",
    graphs: bool = True,
) -> PhotoFilter:
    """Return the filter of a recipe (a built-in name, a TOML file, or a Recipe) with the weights that ship.

    Args:
        device: as torch names them. A CPU needs no torch.
        precision: what a GPU computes in (`apf.filters.precision`); a CPU always does so in float32.
        graphs: whether a GPU's work goes by CUDA graphs (`apf.filters.cuda_runner`).

    Raises:
        RecipeError: the recipe is unknown or does not validate.
        OtherVersion: the recipe was made for other weights or guides, or by code that does something else to pixels.
        WeightsError: the weights are missing or damaged.
        MissingExtra: the device's libraries are not installed.
    """
    found = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    need(extra_for(device), f"device {device!r}")
    if device == "cpu":
        from apf.filters.onnx_filter import CpuFilter  # noqa: PLC0415  ONNX Runtime and torch load where they are used

        return CpuFilter.load(found)
    from apf.filters.torch_filter import Filter  # noqa: PLC0415

    return Filter.load(found, device, precision=precision, graphs=graphs)
