"""The bound by torch against the CPU's own."""

from __future__ import annotations

import numpy as np
import torch

from apf.attack.batched.bounds import Bounds
from apf.attack.batched.packing import side_of
from apf.attack.canvas import Canvas
from apf.faces.geometry import scale_of
from tests.apf.attack.batched.faces import KINDS, face_of
from tests.apf.attack.scenes import STANDARD, busy_photo, face_at, smooth_photo


def bounds_of(canvases: list[Canvas], side: int) -> np.ndarray:
    """By torch, in one batch of this size."""
    height, width = (torch.tensor([one.pixels.shape[axis] for one in canvases], dtype=torch.float32) for axis in (0, 1))
    levels = np.full((len(canvases), side, side, 3), 255, np.float32)
    for image, one in zip(levels, canvases, strict=True):
        image[: one.pixels.shape[0], : one.pixels.shape[1]] = one.pixels
    x, y = np.meshgrid(np.arange(side), np.arange(side))
    at = np.stack([np.stack([x, y, np.ones_like(x)], -1) @ one.matrix.T for one in canvases])
    scale = torch.tensor([scale_of(one.matrix) for one in canvases], dtype=torch.float32)
    bounds = Bounds(torch.from_numpy(levels.transpose(0, 3, 1, 2).copy()), scale, height, width)
    epsilon, most = torch.full_like(scale, STANDARD.epsilon), torch.full_like(scale, STANDARD.most)
    return bounds.map(torch.from_numpy(at).float(), epsilon, most).numpy()


def test_the_bound_is_that_of_a_cpu(portrait: np.ndarray) -> None:
    """Of real faces of all sizes, of noise, of a smooth photo, and of one pixel's width, side by side: within a
    fiftieth of a level.
    """
    tasks = [face_of(portrait, **kind) for kind in KINDS.values()]  # type: ignore[arg-type]
    canvases = [Canvas(task.pixels, task.matrix, STANDARD) for task in tasks]
    for photo in (busy_photo(300, 320), smooth_photo(90, 300), busy_photo(40, 1), busy_photo(1, 1)):
        canvases += [Canvas(photo, face_at(150, 150, 170, 0.4), STANDARD), Canvas(photo, face_at(0, 0, 30), STANDARD)]
    for side in {side_of(one.pixels.shape) for one in canvases}:
        own = [one for one in canvases if side_of(one.pixels.shape) == side]
        for one, canvas in zip(bounds_of(own, side), own, strict=True):
            rows, columns = canvas.bound.shape
            np.testing.assert_allclose(one[:rows, :columns], canvas.bound, atol=0.02)
