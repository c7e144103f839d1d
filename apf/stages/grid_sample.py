"""Sampling of pictures at a grid, differentiable twice: torch's own `grid_sample` stops after the first time."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

#: How torch's own kernel counts them.
BILINEAR, BORDER = 0, 1


def warp(pictures: Tensor, grid: Tensor) -> Tensor:
    """Bilinear sampling; outside the picture its border goes on.

    Args:
        pictures: (B, C, H, W) float32.
        grid: (B, h, w, 2), as `torch.nn.functional.affine_grid` gives it with `align_corners=False`; constant.

    Returns:
        (B, C, h, w).
    """
    found: Tensor = _Sample.apply(pictures, grid)
    return found


class _Sample(torch.autograd.Function):
    """Linear in the pictures, so its derivative is its transpose, whatever the pictures are."""

    @staticmethod
    def forward(ctx: Any, pictures: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = pictures.shape
        return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        (grid,) = ctx.saved_tensors
        return _Spread.apply(cotangent, grid, ctx.shape), None


class _Spread(torch.autograd.Function):
    """The transpose of `_Sample`: each value goes to the four pixels that it was sampled from."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        found: Tensor = torch.ops.aten.grid_sampler_2d_backward(
            values.contiguous(), values.new_empty(shape), grid, BILINEAR, BORDER, False, (True, False)
        )[0]
        return found

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None]:
        (grid,) = ctx.saved_tensors
        return _Sample.apply(cotangent, grid), None, None
