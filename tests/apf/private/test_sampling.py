"""Sampling by NumPy is torch's, and its transpose is one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from apf.stages.affine_sampling import Sampling
from apf.stages.constants import STEPS
from apf.stages.gradient import maps
from apf.stages.grid_sample import warp

SIDE = 24


def affine_of(seed: int, spread: float) -> np.ndarray:
    return np.eye(2, 3, dtype=np.float32) + spread * np.random.default_rng(seed).standard_normal((2, 3), np.float32)


def grid_of(affine: np.ndarray, side: int) -> torch.Tensor:
    return F.affine_grid(torch.from_numpy(affine)[None], [1, 3, side, side], align_corners=False)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.04, 0.5]))
def test_samples_as_torch_does(seed: int, spread: float) -> None:
    """Small maps as the steps use them, and large ones that look far beyond the border, show what torch shows."""
    affine = affine_of(seed, spread)
    picture = np.random.default_rng(seed).random((SIDE, SIDE, 3), np.float32)
    given_to_torch = torch.from_numpy(picture).permute(2, 0, 1)[None]
    expected = F.grid_sample(given_to_torch, grid_of(affine, SIDE), padding_mode="border", align_corners=False)
    found = Sampling.of(affine, SIDE).sample(picture)
    np.testing.assert_allclose(found, expected[0].permute(1, 2, 0).numpy(), atol=2e-5)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.04, 0.5]))
def test_spread_is_the_transpose(seed: int, spread: float) -> None:
    """For all pictures x and values y, the product of A x with y is that of x with A' y."""
    sampling, random = Sampling.of(affine_of(seed, spread), SIDE), np.random.default_rng(seed)
    x, y = random.standard_normal((2, SIDE, SIDE, 3), np.float32)
    size = float(np.linalg.norm(x) * np.linalg.norm(y))
    assert np.vdot(sampling.sample(x), y) == pytest.approx(np.vdot(x, sampling.spread(y)), abs=1e-5 * size)


def test_the_steps_own_maps_on_a_whole_face() -> None:
    """Through each of the eight maps, sampling and its transpose are those of `apf.stages.grid_sample`."""
    random = np.random.default_rng(0)
    picture, values = random.random((2, 112, 112, 3), np.float32)
    for affine in maps(STEPS).numpy():
        sampling = Sampling.of(affine, 112)
        face = torch.from_numpy(picture).permute(2, 0, 1)[None].requires_grad_()
        seen = warp(face, grid_of(affine, 112))
        (back,) = torch.autograd.grad(seen, face, torch.from_numpy(values).permute(2, 0, 1)[None])
        np.testing.assert_allclose(sampling.sample(picture), seen[0].detach().permute(1, 2, 0).numpy(), atol=1e-4)
        np.testing.assert_allclose(sampling.spread(values), back[0].permute(1, 2, 0).numpy(), atol=1e-4)
