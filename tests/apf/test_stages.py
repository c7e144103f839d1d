"""The three modules by themselves: gradient, transfer, universal, and the bound on their sum."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from apf.filter import Filter
from apf.gradient import CHANNELS, as_perturbation, gradient
from apf.models.probe import BLOCK_DIM, BLOCKS, Probe
from apf.models.unet import TransferNet
from apf.transfer import transfer
from apf.universal import combine, universal


@pytest.fixture(scope="module")
def faces(crops: Tensor) -> Tensor:
    return crops[:6]


@pytest.fixture(scope="module")
def gradients(standard: Filter, faces: Tensor) -> Tensor:
    return gradient(standard.probe, faces)


class Flat(Probe):
    """A probe that says the same of every face: its gradient is zero."""

    def blocks(self, faces: Tensor) -> Tensor:
        one = torch.ones(len(faces), BLOCKS, BLOCK_DIM) / BLOCK_DIM**0.5
        return one + 0 * faces.sum((1, 2, 3))[:, None, None]


def test_gradient_has_unit_size(gradients: Tensor) -> None:
    """Each of the three directions of each face has a root mean square of one, whatever the photo's contrast."""
    assert gradients.shape == (6, CHANNELS, 112, 112)
    sizes = gradients.view(6, 3, -1).square().mean(2).sqrt()
    assert torch.allclose(sizes, torch.ones(6, 3), atol=1e-5)


def test_gradient_is_each_face_s_own(standard: Filter, faces: Tensor, gradients: Tensor) -> None:
    """Changing one face of a batch changes its own gradient and no other's."""
    other = faces.clone()
    other[2] = 1 - other[2]
    changed = (gradient(standard.probe, other) - gradients).abs().amax((1, 2, 3))
    assert changed[2] > 0.1
    assert torch.cat([changed[:2], changed[3:]]).max() < 1e-3


def test_gradient_needs_no_second_photo() -> None:
    """The gradient is a function of the probe and this photo: no gallery, no identity, no seed."""
    assert list(inspect.signature(gradient).parameters) == ["probe", "faces"]


def test_gradient_draws_no_random_number(standard: Filter, faces: Tensor, gradients: Tensor) -> None:
    """Another state of the random generator gives the same gradient, and the state is left as it was."""
    torch.manual_seed(123)
    before = torch.get_rng_state()
    again = gradient(standard.probe, faces)
    assert torch.equal(again, gradients)
    assert torch.equal(torch.get_rng_state(), before)


def test_gradient_agrees_with_finite_differences() -> None:
    """The first direction is the derivative of the similarity to the first decoy, by central differences in float64."""
    torch.manual_seed(0)
    probe = Probe().double().eval().requires_grad_(False)
    face = torch.rand(1, 3, 112, 112, dtype=torch.float64)
    signs = torch.tensor([1.0, -1.0] * (BLOCK_DIM // 2), dtype=torch.float64) / BLOCK_DIM**0.5
    direction = torch.randn_like(face)

    def similarity(step: float) -> float:
        return float((probe.blocks(face + step * direction) * signs).sum())

    slope = (similarity(1e-5) - similarity(-1e-5)) / 2e-5
    towards = gradient(probe, face)[:, :3]
    x = face.clone().requires_grad_(True)
    (raw,) = torch.autograd.grad((probe.blocks(x) * signs).sum(), x)
    size = raw.square().mean().sqrt()
    assert float((towards * direction).sum() * size) == pytest.approx(slope, rel=1e-4)


def test_gradient_points_where_it_says(standard: Filter, faces: Tensor, gradients: Tensor) -> None:
    """A small step along "away" makes the probe see its own photo less than before."""
    photos = faces[:3]
    step = combine([as_perturbation(gradients[:3])], 8 / 255)
    with torch.no_grad():
        similarity = (standard.probe(photos) * standard.probe(photos + step)).sum(1)
    assert similarity.max() < 0.9


def test_zero_gradient_is_safe(faces: Tensor) -> None:
    """Where the probe has no opinion the gradient is zero, not NaN, and so is the perturbation."""
    found = gradient(Flat(), faces[:2])
    assert torch.equal(found, torch.zeros_like(found))
    assert torch.equal(combine([as_perturbation(found)], 8 / 255), torch.zeros(2, 3, 112, 112))


@pytest.mark.parametrize("value", [0.0, 1.0], ids=["black", "white"])
def test_gradient_is_not_clipped(standard: Filter, value: float) -> None:
    """A black or white photo still has a gradient of both signs: clipping would show which pixels were extreme."""
    found = gradient(standard.probe, torch.full((1, 3, 112, 112), value)).view(3, -1)
    assert found.isfinite().all()
    for direction in found:
        assert (direction > 0).float().mean() > 0.1 and (direction < 0).float().mean() > 0.1


def test_no_faces_pass_every_stage(standard: Filter) -> None:
    """An empty batch goes through all three modules."""
    found = gradient(standard.probe, torch.zeros(0, 3, 112, 112))
    assert found.shape == (0, CHANNELS, 112, 112)
    assert transfer(standard.network, found).shape == (0, 3, 112, 112)
    assert universal(standard.uap, 0).shape == (0, 3, 112, 112)


def test_transfer_takes_the_gradient_alone() -> None:
    """The second module is given the network and the gradient; the photo has no way in."""
    assert list(inspect.signature(transfer).parameters) == ["network", "gradients"]
    assert list(inspect.signature(TransferNet.forward).parameters) == ["self", "gradient"]


def test_transfer_is_batch_independent(standard: Filter, gradients: Tensor) -> None:
    """A gradient's perturbation is the same alone and in a batch, to rounding."""
    with torch.no_grad():
        together = transfer(standard.network, gradients)
        alone = torch.cat([transfer(standard.network, one[None]) for one in gradients])
    assert together.shape == (6, 3, 112, 112)
    assert torch.allclose(together, alone, atol=1e-4)


def test_transfer_listens_to_the_gradient(standard: Filter, gradients: Tensor) -> None:
    """Different gradients give different perturbations: the network is no second universal perturbation."""
    with torch.no_grad():
        found = transfer(standard.network, gradients[:2])
    assert (found[0] - found[1]).abs().mean() > 0.01


def test_universal_is_the_same_for_every_face(standard: Filter) -> None:
    """The third module repeats one perturbation; no photo goes in."""
    found = universal(standard.uap, 3)
    assert list(inspect.signature(universal).parameters) == ["perturbation", "batch"]
    assert found.shape == (3, 3, 112, 112)
    assert torch.equal(found[0], standard.uap) and torch.equal(found[2], standard.uap)


@settings(max_examples=200)
@given(
    values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=4),
    levels=st.integers(1, 32),
)
def test_combine_keeps_the_bound(values: list[float], levels: int) -> None:
    """However large the parts, their sum after the bound is at most epsilon as a Python float."""
    epsilon = levels / 255
    delta = combine([torch.full((1, 3, 2, 2), value) for value in values], epsilon)
    assert delta.abs().max().item() <= epsilon


@given(values=st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=3), levels=st.integers(1, 32))
def test_combine_is_tanh_of_the_sum(values: list[float], levels: int) -> None:
    """The parts are summed in units of epsilon before the bound, not bounded one by one."""
    delta = combine([torch.full((1, 3, 2, 2), value) for value in values], levels / 255)
    expected = levels / 255 * math.tanh(sum(values))
    assert delta.flatten().tolist() == pytest.approx([expected] * 12, abs=1e-6)


def test_combine_lets_gradients_through() -> None:
    """Training sees through the bound: autograd agrees with finite differences."""
    parts = [torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda *given: combine(list(given), 8 / 255), parts)
