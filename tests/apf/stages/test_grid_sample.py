"""Sampling at a grid: torch's own answer, and derivatives of every order that training asks for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from apf.stages.grid_sample import warp


@pytest.fixture
def grid() -> Tensor:
    theta = torch.tensor([[[0.9, 0.2, 0.1], [-0.1, 1.1, -0.2]]], dtype=torch.float64)
    return F.affine_grid(theta, [1, 3, 6, 7], align_corners=False).expand(2, -1, -1, -1)


@pytest.fixture
def pictures() -> Tensor:
    return torch.rand(2, 3, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_it_is_torch_s_own(pictures: Tensor, grid: Tensor) -> None:
    """Values and first derivatives are those of grid_sample, to the bit."""
    found, wanted = (
        (sample(x), x)
        for x, sample in (
            (pictures.clone().requires_grad_(True), lambda x: warp(x, grid)),
            (
                pictures.clone().requires_grad_(True),
                lambda x: F.grid_sample(x, grid, padding_mode="border", align_corners=False),
            ),
        )
    )
    assert torch.equal(found[0], wanted[0])
    slopes = [torch.autograd.grad(value.square().sum(), x)[0] for value, x in (found, wanted)]
    assert torch.equal(*slopes)


def test_derivatives_agree_with_differences(pictures: Tensor, grid: Tensor) -> None:
    """Once and twice."""
    x = pictures.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: warp(x, grid).square(), (x,))
    assert torch.autograd.gradgradcheck(lambda x: warp(x, grid) ** 3, (x,))


def test_no_pictures(grid: Tensor) -> None:
    """An empty batch gives an empty batch."""
    assert warp(torch.zeros(0, 3, 6, 7, dtype=torch.float64), grid[:0]).shape == (0, 3, 6, 7)
