"""The three modules by themselves: gradient, transfer, universal, and the bound on their sum."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import apf.stages.gradient as gradient_module
from apf.filters.torch_filter import Filter
from apf.stages.constants import CHANNELS
from apf.stages.gradient import as_perturbation, climb, gradient
from apf.stages.probe import BLOCK_DIM, BLOCKS, Probe
from apf.stages.transfer import transfer
from apf.stages.transfer_network import TransferNet
from apf.stages.universal import bounded, combine, limited, universal

EPSILON = 8 / 255


@pytest.fixture(scope="module")
def faces(crops: Tensor) -> Tensor:
    """Three cuts of a photo, noise, and a flat colour at the edge of the pixel range."""
    return crops[:5]


@pytest.fixture(scope="module")
def photos(faces: Tensor) -> Tensor:
    return faces[:3]


@pytest.fixture(scope="module")
def gradients(standard: Filter, faces: Tensor) -> Tensor:
    return gradient(standard.probe, faces, EPSILON)


@pytest.fixture(scope="module")
def start(standard: Filter) -> Tensor:
    """The universal perturbation, (1, 3, 112, 112), as the filter gives it to the gradient stage."""
    return bounded([universal(standard.uap, 1)])


@pytest.fixture
def four_torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


class Flat(Probe):
    """A probe that says the same of every face: its gradient is zero."""

    def blocks(self, faces: Tensor) -> Tensor:
        one = torch.ones(len(faces), BLOCKS, BLOCK_DIM) / BLOCK_DIM**0.5
        return one + 0 * faces.sum((1, 2, 3))[:, None, None]


class Linear(Probe):
    """A probe of one random matrix on 8 x 8 averages: quick, and exact in float64."""

    def __init__(self) -> None:
        super().__init__()
        weights = torch.randn(3 * 14 * 14, BLOCKS * BLOCK_DIM, generator=torch.Generator().manual_seed(0))
        self.weights = weights.double()

    def blocks(self, faces: Tensor) -> Tensor:
        means = F.avg_pool2d(faces * 2 - 1, 8).flatten(1)
        return F.normalize((means @ self.weights.to(means)).view(-1, BLOCKS, BLOCK_DIM), dim=-1)


def similarity(probe: Probe, faces: Tensor, delta: Tensor) -> Tensor:
    """Of each face to what it becomes, (B,)."""
    with torch.no_grad():
        return (probe(faces) * probe((faces + delta).clamp(0, 1))).sum(1)


def noise(faces: Tensor) -> Tensor:
    """Random signs, the largest noise within the bound."""
    return EPSILON * torch.randn(faces.shape, generator=torch.Generator().manual_seed(0)).sign()


def assert_near(one: Tensor, other: Tensor) -> None:
    """Equal but for rounding, which the steps carry on: no value of up to 1 is far off, and hardly any at all."""
    apart = (one - other).abs()
    assert apart.max() < 0.05 and apart.mean() < 1e-4


def test_gradient_s_shape_and_size(gradients: Tensor) -> None:
    """Six channels: the perturbation reached, within [-1, 1], and momentum of a root mean square of one."""
    assert gradients.shape == (5, CHANNELS, 112, 112) and gradients.dtype == torch.float32
    assert not gradients.requires_grad
    reached, momentum = gradients[:, :3], gradients[:, 3:]
    assert reached.abs().max() <= 1 and reached.abs().mean() > 0.5
    assert torch.allclose(momentum.square().mean((1, 2, 3)).sqrt(), torch.ones(5), atol=1e-5)


def test_gradient_does_more_than_noise(standard: Filter, photos: Tensor, gradients: Tensor) -> None:
    """The perturbation reached makes the probe see its own photo far less; the largest noise hardly does."""
    after = similarity(standard.probe, photos, EPSILON * gradients[:3, :3])
    noisy = similarity(standard.probe, photos, noise(photos))
    assert after.max() < 0.9
    assert ((1 - after) > 5 * (1 - noisy)).all()


def test_gradient_improves_on_its_start(standard: Filter, photos: Tensor, start: Tensor) -> None:
    """From the universal perturbation the steps lead further from the photo than that perturbation does by itself."""
    reached = gradient(standard.probe, photos, EPSILON, start)[:, :3]
    before = similarity(standard.probe, photos, EPSILON * start)
    after = similarity(standard.probe, photos, EPSILON * reached)
    assert (after < before - 0.1).all()


def test_gradient_goes_on_from_its_start(standard: Filter, photos: Tensor, start: Tensor, gradients: Tensor) -> None:
    """The universal perturbation is still there after the steps, and without one they end elsewhere."""
    reached = gradient(standard.probe, photos, EPSILON, start)[:, :3]
    overlap = F.cosine_similarity(reached.flatten(1), start.flatten(1))
    without = F.cosine_similarity(gradients[:3, :3].flatten(1), start.flatten(1))
    assert (overlap > without.abs() + 0.1).all()


def test_start_is_broadcast(photos: Tensor) -> None:
    """One start for all faces gives what the same start repeated for each gives; each face may have its own."""
    one = torch.rand(3, 112, 112, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = gradient(Linear(), photos, EPSILON, one)
    assert torch.equal(gradient(Linear(), photos, EPSILON, one.expand(3, -1, -1, -1)), found)
    own = torch.stack([one, -one, one])
    other = gradient(Linear(), photos, EPSILON, own)
    assert torch.equal(other[[0, 2]], found[[0, 2]]) and not torch.equal(other[1], found[1])


@pytest.mark.parametrize("reach", [0.1, 0.5, 1.0])
def test_steps_keep_within_reach(photos: Tensor, reach: float) -> None:
    """However many the steps, no value ends further than `reach` from where it started, nor outside [-1, 1]."""
    begin = torch.rand(photos.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    for steps in (1, 3):
        units, _ = climb(Linear(), photos, begin, EPSILON, steps=steps, reach=reach)
        assert (units - begin).abs().max() <= reach + 1e-6
        assert units.abs().max() <= 1
        assert (units - begin).abs().mean() > reach / 4


def test_no_steps_give_the_start_back(standard: Filter, photos: Tensor, start: Tensor) -> None:
    """Zero steps end where they began, to the bit, with no momentum."""
    begin = start.expand_as(photos)
    units, momentum = climb(standard.probe, photos, begin, EPSILON, steps=0)
    assert torch.equal(units, begin)
    assert torch.equal(momentum, torch.zeros_like(photos))


def test_gradient_depends_on_epsilon(standard: Filter, photos: Tensor, gradients: Tensor) -> None:
    """The steps look at the photo as far off as the recipe allows: another bound gives another perturbation."""
    assert not torch.equal(gradient(standard.probe, photos[:1], 2 / 255), gradients[:1])


def test_gradient_is_each_face_s_own(standard: Filter, faces: Tensor, gradients: Tensor) -> None:
    """Changing one face of a batch changes its own gradient and not one bit of any other's."""
    others = faces.clone()
    others[2] = 1 - others[2]
    found = gradient(standard.probe, others, EPSILON)
    assert [torch.equal(found[i], gradients[i]) for i in range(5)] == [True, True, False, True, True]
    assert (found[2] - gradients[2]).abs().mean() > 0.1


def test_gradient_alone_and_in_a_batch(standard: Filter, faces: Tensor, gradients: Tensor) -> None:
    """A face by itself gives what it gives in a batch; another batch shape rounds otherwise, no more."""
    assert_near(gradient(standard.probe, faces[1:2], EPSILON), gradients[1:2])


@pytest.mark.usefixtures("four_torch_threads")
def test_gradient_in_several_torch_threads(standard: Filter, photos: Tensor, gradients: Tensor) -> None:
    """Torch's own threads share the sums otherwise: the same gradient to rounding, no step turned around."""
    assert_near(gradient(standard.probe, photos[:1], EPSILON), gradients[:1])


def test_gradient_needs_no_second_photo() -> None:
    """The gradient is a function of the probe, this photo, the bound and the start: no gallery, identity or seed."""
    assert list(inspect.signature(gradient).parameters) == ["probe", "faces", "epsilon", "start", "differentiable"]


def test_gradient_draws_no_random_number(standard: Filter, faces: Tensor, gradients: Tensor) -> None:
    """Another state of the random generator gives the same bits, and the state is left as it was."""
    torch.manual_seed(123)
    before = torch.get_rng_state()
    gradient_module._grids.cache_clear()
    again = gradient(standard.probe, faces, EPSILON)
    assert torch.equal(again, gradients)
    assert torch.equal(torch.get_rng_state(), before)


def test_gradient_leaves_its_input_alone(photos: Tensor) -> None:
    """Neither the faces nor the start are written to, and no weight of the probe collects a gradient."""
    seen, begin, probe = photos.clone(), torch.zeros_like(photos), Linear()
    gradient(probe, seen, EPSILON, begin)
    assert torch.equal(seen, photos) and not seen.requires_grad
    assert not begin.any()
    assert all(parameter.grad is None for parameter in probe.parameters())


@pytest.fixture
def straight_views(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step sees the face as it is."""
    monkeypatch.setattr(gradient_module, "AFFINE_STD", 0.0)
    monkeypatch.setattr(gradient_module, "_grids", gradient_module._grids.__wrapped__)


@pytest.mark.usefixtures("straight_views")
def test_momentum_adds_up(photos: Tensor) -> None:
    """Momentum is the sum of all steps' gradients, each of unit mean size: three alike make three times one."""
    begin = torch.full_like(photos, 0.5)
    _, one = climb(Linear(), photos, begin, EPSILON, steps=1, reach=0)
    _, three = climb(Linear(), photos, begin, EPSILON, steps=3, reach=0)
    assert torch.allclose(one.abs().mean((1, 2, 3)), torch.ones(3))
    assert torch.allclose(three, 3 * one, atol=1e-5)


def test_each_step_has_its_own_view(photos: Tensor) -> None:
    """Without moving, another step sees the face shifted and turned otherwise: its gradient is another one."""
    begin = torch.full_like(photos, 0.5)
    one, three = (climb(Linear(), photos, begin, EPSILON, steps=steps, reach=0)[1] for steps in (1, 3))
    assert F.cosine_similarity(one.flatten(1), three.flatten(1)).max() < 0.98


@pytest.mark.usefixtures("straight_views")
def test_momentum_agrees_with_finite_differences(photos: Tensor) -> None:
    """One step's momentum is the derivative away from one's own embedding, by central differences in float64."""
    probe, face = Linear(), photos[:1].double()
    begin, *directions = torch.randn(3, *face.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    begin = begin.clamp(-1, 1)

    def slope(direction: Tensor) -> float:
        seen, own = face + EPSILON * begin, probe(face)
        away = [-(probe(seen + sign * 1e-5 * direction) * own).sum().item() for sign in (1, -1)]
        return (away[0] - away[1]) / 2e-5

    _, momentum = climb(probe, face, begin, EPSILON, steps=1)
    assert momentum.abs().mean().item() == pytest.approx(1)
    along = [(momentum * direction).sum().item() for direction in directions]
    size = slope(momentum) / momentum.square().sum().item()
    assert size > 0
    assert [size * value for value in along] == pytest.approx([slope(d) for d in directions], rel=1e-5)


def test_some_of_the_steps(photos: Tensor) -> None:
    """Stopping on the way gives what the first steps of all give, not a shorter way of longer steps."""
    begin = torch.full_like(photos, 0.1)
    whole, _ = climb(Linear(), photos, begin, EPSILON, steps=4, reach=0.8)
    half, _ = climb(Linear(), photos, begin, EPSILON, steps=4, reach=0.8, taken=2)
    none, momentum = climb(Linear(), photos, begin, EPSILON, steps=4, taken=0)
    assert (half - begin).abs().max() <= 0.4 + 1e-6 < (whole - begin).abs().max()
    assert torch.equal(none, begin) and not momentum.any()


def test_differentiable_steps_are_the_same(standard: Filter, photos: Tensor, start: Tensor) -> None:
    """Training sees to rounding what the filter does; only then is there a graph."""
    plain = gradient(standard.probe, photos, EPSILON, start)
    learnt = gradient(standard.probe, photos, EPSILON, start.clone().requires_grad_(True), differentiable=True)
    assert_near(learnt.detach(), plain)
    assert learnt.requires_grad and not plain.requires_grad


def test_steps_can_be_learnt_through() -> None:
    """What two steps reach has a derivative by their start, that of central differences in float64."""
    generator = torch.Generator().manual_seed(0)
    probe, faces = Linear().double(), torch.rand((1, 3, 112, 112), dtype=torch.float64, generator=generator)
    begin, wanted, direction = torch.randn((3, *faces.shape), dtype=torch.float64, generator=generator)
    begin = (0.2 * begin).requires_grad_(True)

    def reached(start: Tensor) -> Tensor:
        units, _ = climb(probe, faces, start, EPSILON, steps=2, reach=0.2, differentiable=True)
        return (units * wanted).sum()

    (slope,) = torch.autograd.grad(reached(begin), begin)
    ends = [reached(begin.detach() + sign * 1e-6 * direction).item() for sign in (1, -1)]
    by_start = (wanted * direction).sum().item()  # the start itself, as if the steps did not depend on it
    by_steps = (slope * direction).sum().item() - by_start
    assert abs(by_steps) > 0.1
    assert by_steps == pytest.approx((ends[0] - ends[1]) / 2e-6 - by_start, rel=1e-2)


def test_zero_gradient_stays_zero(photos: Tensor) -> None:
    """Where the probe has no opinion the start is all there is: no NaN, no momentum, no rounding error blown up."""
    begin = torch.full_like(photos, 0.25)
    found = gradient(Flat(), photos, EPSILON, begin)
    assert torch.equal(found, torch.cat([begin, torch.zeros_like(photos)], 1))
    assert torch.allclose(combine([as_perturbation(found)], EPSILON), EPSILON * begin)


def test_start_without_a_universal_part(photos: Tensor) -> None:
    """Without a start, one that prefers no sign: off the photo, where the gradient is not zero, alike for all faces."""
    found = gradient(Flat(), photos, EPSILON)[:, :3]
    assert torch.equal(found, found[:1].expand_as(found))
    assert torch.equal(found.abs(), torch.full_like(found, gradient_module.START))
    assert found.mean((2, 3)).abs().max() < 1e-6


@pytest.mark.parametrize("value", [0.0, 1.0], ids=["black", "white"])
@pytest.mark.parametrize("sign", [-1.0, 1.0], ids=["dark start", "bright start"])
def test_clipped_pixels_do_not_show(standard: Filter, photos: Tensor, value: float, sign: float) -> None:
    """Where a photo is all black or white the steps go both ways, also from beyond the range: nothing is clipped.

    Clipped pixels would have no gradient, and their sign would tell which they were.
    """
    patch = (slice(None), slice(None), slice(30, 80), slice(30, 80))
    seen = photos[:1].clone()
    seen[patch] = value
    units, momentum = climb(standard.probe, seen, torch.full_like(seen, 0.9 * sign), EPSILON, steps=2)
    inside, outside = momentum[patch].abs().mean(), momentum.abs().mean()
    assert inside > 0.2 * outside
    assert (momentum[patch] != 0).float().mean() > 0.99
    for share in ((momentum[patch] > 0).float().mean(), (momentum[patch] < 0).float().mean()):
        assert share > 0.2
    back = (units[patch] - 0.9 * sign) * sign < -0.1
    assert back.float().mean() > 0.2


@pytest.mark.parametrize("value", [0.0, 1.0], ids=["black", "white"])
def test_flat_photos_have_a_gradient(standard: Filter, value: float) -> None:
    """A photo that is black or white all over still gets a perturbation of both signs in every colour."""
    found = gradient(standard.probe, torch.full((1, 3, 112, 112), value), EPSILON)[0].flatten(1)
    assert found.isfinite().all()
    assert ((found > 0).float().mean(1) > 0.2).all() and ((found < 0).float().mean(1) > 0.2).all()


def test_gradient_alone_reaches_what_it_found(gradients: Tensor) -> None:
    """Without a network the bound's tanh is undone: what comes out is the perturbation that the steps reached."""
    delta = combine([as_perturbation(gradients)], EPSILON)
    assert delta.isfinite().all()
    assert torch.allclose(delta, EPSILON * gradients[:, :3].clamp(-0.999, 0.999), atol=1e-6)


@pytest.mark.parametrize("given", [True, False], ids=["universal start", "no start"])
def test_no_faces_have_no_gradient(standard: Filter, start: Tensor, given: bool) -> None:
    """An empty batch goes through the steps."""
    found = gradient(standard.probe, torch.zeros(0, 3, 112, 112), EPSILON, start if given else None)
    assert found.shape == (0, CHANNELS, 112, 112)


def test_transfer_takes_the_gradient_alone() -> None:
    """The second module is given the network and the gradient; the photo has no way in."""
    assert list(inspect.signature(transfer).parameters) == ["network", "gradients"]
    assert list(inspect.signature(TransferNet.forward).parameters) == ["self", "gradient"]


def test_untrained_network_passes_on_what_was_reached(gradients: Tensor) -> None:
    """Before any training the network's answer is the perturbation reached, to the bit, and not the momentum."""
    with torch.no_grad():
        found = transfer(TransferNet(CHANNELS).eval(), gradients)
    assert torch.equal(found, gradients[:, :3])


def test_transfer_is_batch_independent(standard: Filter, gradients: Tensor) -> None:
    """A gradient's perturbation is the same alone and in a batch, to rounding."""
    with torch.no_grad():
        together = transfer(standard.network, gradients)
        alone = torch.cat([transfer(standard.network, one[None]) for one in gradients])
    assert together.shape == (5, 3, 112, 112)
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


def same(value: float) -> Tensor:
    return torch.full((1, 3, 2, 2), value)


@given(values=st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=3))
def test_bounded_is_tanh_of_the_sum(values: list[float]) -> None:
    """The parts are summed in units of epsilon before the bound, not bounded one by one."""
    found = bounded([same(value) for value in values])
    assert found.flatten().tolist() == pytest.approx([math.tanh(sum(values))] * 12, abs=1e-6)


@settings(max_examples=200)
@given(
    values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=4),
    levels=st.integers(1, 32),
)
def test_combine_keeps_the_bound(values: list[float], levels: int) -> None:
    """However large the parts, their sum after the bound is at most epsilon as a Python float."""
    epsilon = levels / 255
    parts = [same(value) for value in values]
    delta = combine(parts, epsilon)
    assert delta.abs().max().item() <= epsilon
    assert torch.allclose(delta, epsilon * bounded(parts), rtol=1e-6, atol=0)


@settings(max_examples=200)
@given(value=st.floats(-2, 2, width=32), levels=st.integers(1, 32))
def test_limited_cuts_at_the_bound_alone(value: float, levels: int) -> None:
    """What lies within the bound stays as it is, to the bit; what lies beyond ends at epsilon and not a hair above."""
    epsilon = levels / 255
    found = limited(same(value), epsilon).flatten().unique().item()
    if abs(value) < epsilon * (1 - 1e-6):
        assert found == value
    else:
        assert abs(found) <= epsilon and found == pytest.approx(
            math.copysign(min(abs(value), epsilon), value), rel=1e-6
        )


def test_combine_lets_gradients_through() -> None:
    """Training sees through the bound: autograd agrees with finite differences."""
    parts = [torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda *given: combine(list(given), EPSILON), parts)
