"""The gradient stage without torch: `apf.stages.gradient` by NumPy and the probe's ONNX file.

All of it is in `LightProbe.gradient`: eight times, sample the perturbed face through a map, take the probe's gradient,
bring it back through the map, add it to the momentum, and step by its soft sign.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from apf.errors import WeightsError
from apf.faces.alignment import CROP
from apf.runtime.onnx_session import RuntimeNetwork
from apf.stages.affine_sampling import Sampling
from apf.stages.constants import CELL, REACH, SOFTNESS, START, STEPS, TINY
from apf.weight_files import WEIGHTS_DIR, check_file

Float32 = NDArray[np.float32]

GRADIENT_ONNX = "probe_gradient.onnx"
UNIVERSAL = "universal.safetensors"


class Samples(Protocol):
    """A linear map of pictures, as `Sampling` is."""

    def sample(self, picture: Float32) -> Float32: ...

    def spread(self, values: Float32) -> Float32: ...


class LightProbe:
    """The probe with its gradient. Faces are (3, 112, 112) float32 RGB in [0, 1], one at a time.

    Args:
        folder: where the weights lie.
        sampling: makes a map of pictures of an affine map (2, 3) and their side.

    Raises:
        WeightsError: the files that ship are missing or damaged.
    """

    def __init__(
        self,
        folder: Path = WEIGHTS_DIR,
        *,
        sampling: Callable[[Float32, int], Samples] = Sampling.of,
    ) -> None:
        for name in (GRADIENT_ONNX, UNIVERSAL):
            check_file(folder, name)
        self._folder = folder
        self._network = RuntimeNetwork.load(folder / GRADIENT_ONNX)
        self._embedding = self._network.only("embedding")
        affine = np.array(json.loads(self._network.metadata["maps"]), np.float32)
        self._maps = [sampling(one, CROP) for one in affine]

    def embedding(self, face: Float32) -> Float32:
        """Return the face's unit embedding, (320,)."""
        found: Float32 = self._embedding(face=face[None])["embedding"][0]
        return found

    def gradient(self, face: Float32, epsilon: float, stages: Collection[str]) -> Float32:
        """As `apf.stages.gradient.gradient`: (6, 112, 112), the perturbation reached and the momentum.

        Args:
            epsilon: the bound, in units of [0, 1] pixels.
            stages: of the recipe; with "universal" the steps start from that perturbation.
        """
        own = self.embedding(face)
        face = np.ascontiguousarray(face.transpose(1, 2, 0))  # channels last from here on
        units = self._start if "universal" in stages else _chequers()
        momentum = np.zeros_like(face)
        for sampling in self._maps:
            seen = sampling.sample(face + np.float32(epsilon) * units)
            momentum = momentum + _at_unit_size(sampling.spread(self._away(seen, own)))
            step = np.tanh(SOFTNESS * _at_unit_size(momentum))
            units = np.clip(units + np.float32(REACH / STEPS) * step, -1, 1)
        size = np.sqrt(np.square(momentum).mean())
        found = np.concatenate([units, momentum / max(size, TINY)], 2)
        return np.ascontiguousarray(found.transpose(2, 0, 1), np.float32)

    @cached_property
    def _start(self) -> Float32:
        """Where the steps start, (112, 112, 3)."""
        return np.ascontiguousarray(np.tanh(self.universal).transpose(1, 2, 0))

    @cached_property
    def universal(self) -> Float32:
        """The perturbation of all faces, (3, 112, 112), in units of epsilon and not bounded yet."""
        try:
            found: Float32 = safetensors.numpy.load_file(self._folder / UNIVERSAL)["perturbation"]
        except (OSError, SafetensorError, LookupError) as error:
            raise WeightsError(f"{UNIVERSAL} cannot be read ({error}): install the package again") from error
        return found

    def _away(self, face: Float32, own: Float32) -> Float32:
        """Return the gradient, by a face (112, 112, 3), of minus the product of its embedding with `own` (320,)."""
        found: Float32 = self._network(face=face.transpose(2, 0, 1)[None], own=own[None])["away"][0].transpose(1, 2, 0)
        return found


def _at_unit_size(direction: Float32) -> Float32:
    size = max(float(np.abs(direction).mean()), TINY)
    unit: Float32 = direction / np.float32(size)
    return unit


def _chequers() -> Float32:
    """(112, 112, 3): cells of alternating sign, another phase for each colour."""
    cells = np.arange(CROP) // CELL
    sign = 1 - 2 * ((cells[:, None, None] + cells[None, :, None] + np.arange(3)) % 2)
    return (START * sign).astype(np.float32)
