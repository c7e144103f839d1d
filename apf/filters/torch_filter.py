"""The filter by torch: from aligned faces to bounded perturbations, by the recipe's stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from apf.attack.perturbation import Change, change_of
from apf.attack.protect_face import Hidden, Task, hide
from apf.attack.recipe_guides import Guides, load_guides
from apf.detection.detector import Detector, load_detector
from apf.errors import WeightsError
from apf.faces.alignment import CROP, Float32
from apf.filters.cuda_runner import Runner
from apf.filters.precision import Precision, at_precision, chosen
from apf.recipe import DEFAULT_RECIPE, Recipe, ready_recipe
from apf.runtime.stage_clock import StageClock
from apf.runtime.torch_threads import each
from apf.stages.compose import Run, answered, finish
from apf.stages.constants import CHANNELS
from apf.stages.probe import Probe, fused
from apf.stages.transfer_network import TransferNet
from apf.weight_files import WEIGHTS_DIR

if TYPE_CHECKING:
    from apf.attack.batched.road import BatchedRoad

#: Faces a forward pass, always exactly so many: with one batch shape a face's result is the same to the bit whatever
#: faces come with it. Larger chunks gain a CPU little and cost a photo with one face its padding. A GPU has several
#: sizes (`apf.filters.cuda_runner`), of which this is a middle one.
CHUNK = {"cpu": 1, "cuda": 32}

Module = TypeVar("Module", bound=nn.Module)


class Filter:
    """The three modules with their weights on one device. Make one with `Filter.load`.

    This is the filter by torch: for GPUs and for training. On a CPU `apf.load_filter` gives a faster one, which does
    the same up to rounding.
    """

    #: Photos that come together are faster than one by one.
    batched = True

    def __init__(
        self,
        recipe: Recipe,
        device: str,
        probe: Probe,
        network: TransferNet,
        uap: Tensor,
        *,
        precision: Precision = "auto",
        graphs: bool = True,
    ) -> None:
        self.recipe = recipe
        self.device = torch.device(device)
        self.probe = fused(_frozen(probe, self.device))
        self.network = _frozen(network, self.device)
        self.uap = uap.to(self.device)
        #: The two networks as they compute; `probe` and `network` stay float32.
        self._dtype, self._graphs = chosen(precision, self.device), graphs
        self._used = at_precision(self.probe, self.network, self._dtype)
        self._runners = {
            work.__name__: Runner(work.__name__, work, self.device, graphs=graphs)
            for work in (self._stages, self._finish)
            if self.device.type == "cuda"
        }

    @classmethod
    def load(
        cls,
        recipe: str | Path | Recipe = DEFAULT_RECIPE,
        device: str = "cpu",
        *,
        precision: Precision = "auto",
        graphs: bool = True,
    ) -> Filter:
        """Return the filter of a recipe (a built-in name, a TOML file, or a Recipe) with the weights that ship.

        Args:
            precision: what the networks compute in (`apf.filters.precision`); "auto" is float32 on a CPU.
            graphs: whether a GPU's work goes by CUDA graphs (`apf.filters.cuda_runner`); nothing to a CPU.

        Raises:
            RecipeError: the recipe is unknown or does not validate.
            OtherVersion: the recipe was made for other weights, or by code that does something else to pixels.
            WeightsError: the weights are missing or damaged.
        """
        found = ready_recipe(recipe, WEIGHTS_DIR)
        probe, network = Probe(), TransferNet(CHANNELS)
        _restore(probe, "probe")
        _restore(network, "transfer")
        uap = _tensors("universal")["perturbation"]
        return cls(found, device, probe, network, uap, precision=precision, graphs=graphs)

    @cached_property
    def detector(self) -> Detector:
        """The recipe's face detector, loaded on first use; raises DetectorError."""
        return load_detector(self.recipe.detector, str(self.device))

    @cached_property
    def guides(self) -> Guides:
        """The recipe's guides, loaded on first use; raises GuideError."""
        return load_guides(self.recipe, str(self.device))

    def perturbation(self, faces: Tensor, clock: StageClock | None = None) -> Tensor:
        """Return the perturbation of each face, independent of the faces around it.

        Args:
            faces: (B, 3, 112, 112) float32 RGB in [0, 1], aligned to the ArcFace template; B may be 0.
            clock: takes the seconds of "gradient", "transfer" and "universal".

        Returns:
            (B, 3, 112, 112) float32 on the filter's device; no value is larger than the recipe's epsilon.

        Raises:
            ValueError: the faces have another shape or type, or leave [0, 1].
        """
        return self._answers(faces, clock)[:, :3].contiguous()

    def changes(self, crops: Sequence[Float32], clock: StageClock | None = None) -> list[Change]:
        """Return what is to be done to faces, NumPy arrays (3, 112, 112), each independent of the others."""
        if not crops:
            return []
        found = self._answers(torch.from_numpy(np.stack(crops)), clock).cpu().numpy()
        epsilon, led = self.recipe.epsilon, "gradient" in self.recipe.stages
        return [
            change_of(one[:3], epsilon, crop, one[3:]) if led else change_of(one[:3], epsilon)
            for crop, one in zip(crops, found, strict=True)
        ]

    def hide(self, tasks: Sequence[Task], clock: StageClock | None = None) -> list[Hidden]:
        """As `apf.attack.protect_face.hide`, by the recipe and its guides: on a GPU in batches across photos.

        Raises:
            DeviceMemoryError: the GPU has no memory for one face.
        """
        if self.device.type == "cpu" or not self.recipe.steps:
            return hide(tasks, self.recipe, self.guides, clock)
        with (clock or StageClock()).stage("steps"):
            return self._road.hide(tasks, self.recipe)

    @cached_property
    def _road(self) -> BatchedRoad:
        from apf.filters.steps_road import road_on  # noqa: PLC0415  guides by torch load where there are steps

        return road_on(self.device, self.guides, self._dtype, graphs=self._graphs)

    def _answers(self, faces: Tensor, clock: StageClock | None) -> Tensor:
        _check(faces)
        return self._in_chunks(faces, self._stages, clock)

    def perturb_from(self, gradients: Float32, clock: StageClock | None = None) -> Float32:
        """As `perturbation_from`, of a NumPy array."""
        found: Float32 = self.perturbation_from(torch.from_numpy(gradients), clock).cpu().numpy()
        return found

    def perturbation_from(self, gradients: Tensor, clock: StageClock | None = None) -> Tensor:
        """Return the perturbation of faces that are not here, from their gradients: transfer, universal and bound.

        Args:
            gradients: (B, 6, 112, 112) float32, as `apf.stages.gradient.gradient` gives them; B may be 0.
            clock: takes the seconds of "transfer" and "universal".

        Returns:
            (B, 3, 112, 112) float32 on the filter's device; no value is larger than the recipe's epsilon.

        Raises:
            ValueError: the gradients have another shape, or are not finite.
        """
        if gradients.ndim != 4 or tuple(gradients.shape[1:]) != (CHANNELS, CROP, CROP):
            raise ValueError(f"gradients must be (B, {CHANNELS}, {CROP}, {CROP}), not {tuple(gradients.shape)}")
        if not torch.isfinite(gradients).all():
            raise ValueError("gradients must be finite")
        return self._in_chunks(gradients, self._finish, clock)

    def _in_chunks(self, given: Tensor, work: Callable[[Tensor, Run], Tensor], clock: StageClock | None) -> Tensor:
        """`work` on chunks of always the same size, (B, c, 112, 112) to (B, d, 112, 112)."""
        clock = clock or StageClock()
        if self._runners and len(given):
            return self._runners[work.__name__](given, clock)
        size = CHUNK.get(self.device.type, 1)
        given = given.to(self.device)

        def run(stage: str, part: Callable[[], Tensor]) -> Tensor:
            with clock.stage(stage):
                return part()

        def one(chunk: Tensor) -> Tensor:
            padding = chunk.new_full((size - len(chunk), *chunk.shape[1:]), 0.5)
            padded = torch.cat([chunk, padding]).contiguous(memory_format=torch.channels_last)
            with torch.no_grad():
                return work(padded, run)[: len(chunk)].contiguous()

        deltas = each(one, torch.split(given, size) if len(given) else (), self.device)
        return torch.cat(deltas) if deltas else given.new_zeros(0, 3, CROP, CROP)

    def _stages(self, faces: Tensor, run: Run) -> Tensor:
        """Return perturbations, then the momentum of each: (B, 6, 112, 112)."""
        recipe, (probe, network) = self.recipe, self._used
        delta, momentum = answered(probe, network, self.uap, faces, recipe.epsilon, recipe.stages, run=run)
        return torch.cat([delta, torch.zeros_like(delta) if momentum is None else momentum], 1)

    def _finish(self, gradients: Tensor, run: Run) -> Tensor:
        recipe, (_, network) = self.recipe, self._used
        return finish(network, self.uap, gradients, len(gradients), recipe.epsilon, recipe.stages, run=run)


def _check(faces: Tensor) -> None:
    if faces.ndim != 4 or tuple(faces.shape[1:]) != (3, CROP, CROP):
        raise ValueError(f"faces must be (B, 3, {CROP}, {CROP}), not {tuple(faces.shape)}: align them first")
    if faces.dtype != torch.float32:
        raise ValueError(f"faces must be float32 in [0, 1], not {faces.dtype}: divide 8-bit pixels by 255")
    if len(faces) and not (faces.min() >= 0 and faces.max() <= 1):
        raise ValueError(f"faces must lie in [0, 1], not in [{faces.min():.3g}, {faces.max():.3g}]")


def _frozen(module: Module, device: torch.device) -> Module:
    """For inference, in the memory layout that convolutions like."""
    laid_out: Module = module.to(device).to(memory_format=torch.channels_last)
    return laid_out.eval().requires_grad_(False)


def _tensors(name: str) -> dict[str, Tensor]:
    path = WEIGHTS_DIR / f"{name}.safetensors"
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"weights {path} cannot be read ({error}): install the package again") from error


def _restore(module: nn.Module, name: str) -> None:
    try:
        module.load_state_dict(_tensors(name))
    except RuntimeError as error:
        raise WeightsError(f"weights {name}.safetensors are not of this version: {error}") from error
