"""A batch of faces of one size on a device: its places there, and the three pieces of work done in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apf.attack.batched.packing import Packed
from apf.attack.batched.step import Canvases, Steps
from apf.stages.compose import Run


class Record(Protocol):
    """Makes a piece of work ready to be done again and again: as a CUDA graph, or as it is."""

    def __call__(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]: ...


class Batch:
    """Places for so many faces on canvases of so many pixels.

    Each piece of work reads and writes these places alone, and gives the same when it is done twice: so it can be a
    graph. `load` fills them with other faces.

    Args:
        run: times the parts of a step, where it is done launch by launch.
    """

    def __init__(self, steps: Steps, given: Packed, size: int, device: torch.device, record: Record, run: Run) -> None:
        self._steps, self._device, self._run = steps, device, run
        self._size = size
        self._places: dict[str, Tensor] = {}
        for name, array in given.arrays().items():
            if name != "rows":
                self._places[name] = torch.zeros((size, *array.shape[1:]), dtype=_type(array), device=device)
        self._row = torch.zeros((size, given.rows.shape[2]), device=device)
        self._rows = self._row[:, None]
        self._canvases: Canvases  # once `_begin` has run
        self.load(given)
        self._begin, self._step, self._judge = record(self._begun), record(self._stepped), record(self._judged)

    def load(self, given: Packed) -> None:
        """Copy faces to the device, without waiting for it; the last of them fills up what is left of the batch."""
        for name, array in given.arrays().items():
            values = self._there(array)
            if name == "rows":
                filling = values[-1:].expand(self._size - len(values), -1, -1)
                self._rows = torch.cat([values, filling])
                self._row.copy_(self._rows[:, 0])
            else:
                self._places[name][: len(values)] = values
                self._places[name][len(values) :] = values[-1:]

    def climb(self) -> Tensor:
        """Take all steps of the faces that were loaded, and have them judged.

        Returns:
            (B, `STATE` + 1 + S * S): the state, the likeness, and the bound; a tensor of its own.
        """
        self._begin()
        for step in range(self._rows.shape[1]):
            self._row.copy_(self._rows[:, step])
            self._places["state"].copy_(self._step())
        likeness = self._judge()[:, None]
        return torch.cat([self._places["state"], likeness, self._canvases.whole_bound.flatten(1)], 1)

    def _begun(self) -> Tensor:
        self._canvases = self._steps.begin(self._places)
        return torch.cat(self._canvases.away, 1)

    def _stepped(self) -> Tensor:
        steps, canvases, row, state = self._steps, self._canvases, self._row, self._places["state"]
        numbers = self._places["numbers"]
        image = self._run("draw", lambda: steps.draw(canvases, numbers, state))
        image = self._run("jpeg", lambda: steps.coded(image, numbers, row))
        crop = self._run("view", lambda: steps.see(image, row))
        gradient = self._run("guides", lambda: steps.gradient(crop, canvases.away, row))
        back = self._run("back", lambda: steps.back(gradient, row))
        return self._run("update", lambda: steps.update(canvases, numbers, state, back, row))

    def _judged(self) -> Tensor:
        places = self._places
        return self._steps.judge(self._canvases, places["numbers"], places["state"], places["views"])

    def _there(self, array: NDArray[np.generic]) -> Tensor:
        values = torch.from_numpy(array)
        if self._device.type == "cuda":
            values = values.pin_memory()  # is kept and used again by torch, which knows when the copy is over
        return values.to(self._device, non_blocking=True)


def _type(array: NDArray[np.generic]) -> torch.dtype:
    return torch.uint8 if array.dtype == np.uint8 else torch.float32
