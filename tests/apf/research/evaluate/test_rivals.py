"""The rival attacks, against small made-up recognisers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from apf.guides.torch_recogniser import Recogniser
from apf.research.evaluate.rivals import (
    Perturb,
    ReleasedApf,
    fawkes,
    lowkey,
    momentum_attack,
    noise,
    released_apf,
    released_training,
    rivals,
    sign_noise,
    train_released,
)
from apf.research.evaluate.rivals.fawkes import BUDGET, farthest
from apf.research.evaluate.rivals.loop import generators
from apf.research.evaluate.rivals.lowkey import smoothed
from apf.research.evaluate.rivals.registry import one_each
from apf.research.evaluate.rivals.released import NoiseUNet, probe_noise, turned
from apf.research.train.data import DataError, Faces
from apf.research.train.ssim import dssim, ssim

EPSILON = 8 / 255
#: Makes the made-up recognisers sensitive.
GAIN = 6.0


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sin()


def recogniser(seed: int) -> Recogniser:
    """Two convolutions and a random matrix, embedding in 32 dimensions: smooth, and sensitive as real ones are."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv2d(3, 8, 5, 4, 2, bias=False),
            Sine(),
            nn.Conv2d(8, 16, 5, 4, 2, bias=False),
            Sine(),
            nn.Flatten(),
            nn.Linear(16 * 7 * 7, 32, bias=False),
        )
        for layer in (network[0], network[2]):
            layer.weight.data.mul_(GAIN)
    return Recogniser(network)


def patterns(number: int, seed: int = 0) -> Tensor:
    """Smooth faces (N, 3, 112, 112) in [0, 1], black and white places among them."""
    coarse = 1.4 * torch.rand(number, 3, 7, 7, generator=torch.Generator().manual_seed(seed)) - 0.2
    return F.interpolate(coarse, size=(112, 112), mode="bilinear", align_corners=False).clamp(0, 1)


def own_similarity(model: nn.Module, faces: Tensor, delta: Tensor) -> float:
    """Mean cosine between perturbed and clean faces."""
    with torch.no_grad():
        return float((model((faces + delta).clamp(0, 1)) * model(faces)).sum(1).mean())


pytestmark = pytest.mark.rotating("evaluation")


@pytest.fixture(scope="module")
def faces() -> Tensor:
    return patterns(3)


@pytest.fixture(scope="module")
def people() -> Faces:
    """Six people with two photos each: a pattern of the person's own with a little noise."""
    own = patterns(6, seed=1).repeat_interleave(2, 0)
    noisy = own + 0.05 * torch.randn(own.shape, generator=torch.Generator().manual_seed(2))
    names = tuple(f"person {number // 2}" for number in range(12))
    return Faces((noisy.clamp(0, 1) * 255).round().to(torch.uint8), names)


def random_released() -> ReleasedApf:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return ReleasedApf(torch.randn(3, 112, 112).sign())


#: Every rival, small: from seed and batch size.
RIVALS: dict[str, Callable[[int, int], Perturb]] = {
    "noise": lambda seed, _: noise(EPSILON, seed),
    "sign noise": lambda seed, _: sign_noise(EPSILON, seed),
    "PGD": lambda seed, batch: momentum_attack(
        [recogniser(0)], EPSILON, 3, momentum=0, diversity=0, step=EPSILON / 4, seed=seed, batch=batch
    ),
    "MI-DI": lambda seed, batch: momentum_attack([recogniser(0), recogniser(1)], EPSILON, 3, seed=seed, batch=batch),
    "LowKey": lambda _, batch: lowkey([recogniser(0), recogniser(1)], EPSILON, steps=3, batch=batch),
    "Fawkes": lambda seed, batch: fawkes(
        recogniser(0), patterns(9, 5), EPSILON, seed=seed, choices=2, steps=3, batch=batch
    ),
    "released": lambda seed, batch: released_apf(random_released(), recogniser(0), EPSILON, seed=seed, batch=batch),
}
SEEDED = [name for name in RIVALS if name != "LowKey"]


@pytest.mark.parametrize("name", RIVALS)
def test_bound_and_shape(name: str, faces: Tensor) -> None:
    """No value is larger than epsilon as a Python float, none is NaN, and something is changed."""
    delta = RIVALS[name](0, 16)(faces)
    assert delta.shape == faces.shape and delta.dtype == torch.float32 and not delta.requires_grad
    assert delta.isfinite().all()
    assert 0 < delta.abs().max().item() <= EPSILON


@pytest.mark.rotating
@pytest.mark.parametrize("levels", range(1, 33))
def test_bound_holds_for_every_epsilon(levels: int, faces: Tensor) -> None:
    """Also where float32(epsilon) lies above epsilon, and noise is cut by no more than rounding."""
    found = sign_noise(levels / 255, 0)(faces[:1]).abs()
    assert found.max().item() <= levels / 255
    assert found.min().item() == pytest.approx(levels / 255, rel=1e-6)


@pytest.mark.parametrize("name", RIVALS)
def test_empty_batch(name: str, faces: Tensor) -> None:
    """No faces give no perturbations."""
    assert RIVALS[name](0, 16)(faces[:0]).shape == (0, 3, 112, 112)


@pytest.mark.parametrize("name", RIVALS)
def test_deterministic(name: str, faces: Tensor) -> None:
    """The same seed gives the same bits, called twice and built twice, and leaves torch's own generator alone."""
    perturb, before = RIVALS[name](0, 16), torch.get_rng_state()
    first = perturb(faces)
    assert torch.equal(first, perturb(faces))
    assert torch.equal(first, RIVALS[name](0, 16)(faces))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", SEEDED)
def test_seed_matters(name: str, faces: Tensor) -> None:
    """Another seed gives another perturbation."""
    assert not torch.equal(RIVALS[name](0, 16)(faces), RIVALS[name](1, 16)(faces))


@pytest.mark.parametrize("name", RIVALS)
def test_batch_mates_do_not_matter(name: str, faces: Tensor) -> None:
    """A face's perturbation is the same alone, in another order and in smaller batches, but for rounding."""
    together = RIVALS[name](0, 16)(faces)
    alone = RIVALS[name](0, 1)(faces[1:2])
    turned_round = RIVALS[name](0, 2)(faces.flip(0)).flip(0)
    for other, same in ((alone, together[1:2]), (turned_round, together)):
        assert ((other - same).abs() > EPSILON / 100).float().mean() < 1e-3


@pytest.mark.parametrize("name", RIVALS)
def test_input_is_not_changed(name: str, faces: Tensor) -> None:
    """The faces given are left as they were."""
    given = faces.clone()
    RIVALS[name](0, 16)(given)
    assert torch.equal(given, faces)


@pytest.mark.parametrize("epsilon", [0.0, -0.1, 8.0])
def test_epsilon_must_be_a_share_of_the_range(epsilon: float) -> None:
    """An epsilon in levels instead of [0, 1] is refused, with the cure."""
    with pytest.raises(ValueError, match="levels / 255"):
        noise(epsilon, 0)


def test_an_attack_needs_a_model() -> None:
    """An empty ensemble is refused."""
    with pytest.raises(ValueError, match="at least one recogniser"):
        momentum_attack([], EPSILON, 3, seed=0)


def test_sign_noise_is_full_and_noise_uniform(faces: Tensor) -> None:
    """Sign noise is 30.1 dB at 8/255; uniform noise has a third of its power. Both have a mean near zero."""
    full, even = sign_noise(EPSILON, 0)(faces), noise(EPSILON, 0)(faces)
    assert -10 * np.log10(full.square().mean().item()) == pytest.approx(30.07, abs=0.01)
    assert even.square().mean().item() == pytest.approx(EPSILON**2 / 3, rel=0.02)
    assert abs(full.mean().item()) < EPSILON / 50 and abs(even.mean().item()) < EPSILON / 50


def test_noise_differs_from_face_to_face(faces: Tensor) -> None:
    """Different faces of a batch get different noise."""
    delta = noise(EPSILON, 0)(faces)
    assert not torch.equal(delta[0], delta[1])


def test_pgd_beats_noise(faces: Tensor) -> None:
    """PGD makes the recogniser see its own photo far less than noise of the same size does."""
    model = recogniser(0)
    pgd = momentum_attack([model], EPSILON, 10, momentum=0, diversity=0, step=EPSILON / 4, seed=0)(faces)
    by_noise = own_similarity(model, faces, sign_noise(EPSILON, 0)(faces))
    assert own_similarity(model, faces, pgd) < by_noise - 0.3


def test_perturbed_faces_stay_in_range(faces: Tensor) -> None:
    """Steps are projected to the pixel range, too: nothing is lost when the photo is written."""
    delta = momentum_attack([recogniser(0)], EPSILON, 3, seed=0)(faces)
    assert (faces + delta).min() >= -1e-6 and (faces + delta).max() <= 1 + 1e-6


@pytest.mark.parametrize(
    "change",
    [{"momentum": 0.0}, {"diversity": 0.0}, {"step": EPSILON / 10}],
    ids=lambda change: next(iter(change)),
)
def test_every_variation_counts(change: dict[str, object], faces: Tensor) -> None:
    """Momentum, diversity and step each change the result."""
    build = {"surrogates": [recogniser(0)], "epsilon": EPSILON, "steps": 3, "seed": 0}
    usual = momentum_attack(**build)(faces)
    assert ((momentum_attack(**(build | change))(faces) - usual).abs() > EPSILON / 100).float().mean() > 0.01


def test_every_surrogate_is_attacked(faces: Tensor) -> None:
    """An attack on two recognisers lowers the similarity that each of them sees."""
    models = [recogniser(0), recogniser(1)]
    delta = momentum_attack(models, EPSILON, 10, seed=0)(faces)
    for model in models:
        assert own_similarity(model, faces, delta) < own_similarity(model, faces, noise(EPSILON, 0)(faces)) - 0.1


def test_lowkey_survives_smoothing(faces: Tensor) -> None:
    """After a Gaussian, LowKey's perturbation still counts, and more than PGD's with as many steps."""
    model = recogniser(0)
    key = lowkey([model], EPSILON, steps=10)(faces)
    pgd = momentum_attack([model], EPSILON, 10, momentum=0, diversity=0, step=0.0025, seed=0)(faces)

    def seen_smoothed(delta: Tensor) -> float:
        with torch.no_grad():
            return float((model(smoothed(faces + delta, 3.0, 7)) * model(faces)).sum(1).mean())

    assert own_similarity(model, faces, key) < own_similarity(model, faces, sign_noise(EPSILON, 0)(faces)) - 0.1
    assert seen_smoothed(key) < seen_smoothed(torch.zeros_like(faces)) - 0.05
    assert seen_smoothed(key) < seen_smoothed(pgd) - 0.05


def test_lowkey_needs_an_odd_window() -> None:
    """A window without a middle is refused."""
    with pytest.raises(ValueError, match="odd, not 6"):
        lowkey([recogniser(0)], EPSILON, window=6)


def test_ssim_agrees_with_scikit_image(faces: Tensor) -> None:
    """Our SSIM is scikit-image's with Wang's Gaussian window."""
    noisy = (faces + noise(EPSILON, 0)(faces)).clamp(0, 1)
    expected = [
        structural_similarity(
            a.numpy(), b.numpy(), channel_axis=0, data_range=1.0, gaussian_weights=True, use_sample_covariance=False
        )
        for a, b in zip(faces, noisy, strict=True)
    ]
    assert ssim(faces, noisy).tolist() == pytest.approx(expected, abs=1e-4)
    assert dssim(faces, faces).tolist() == pytest.approx([0.0] * 3, abs=1e-6)


def test_fawkes_chooses_the_farthest(faces: Tensor) -> None:
    """Among all candidates the target is the most distant one; among one drawn candidate, that one."""
    model, candidates = recogniser(0), patterns(9, seed=5)
    with torch.no_grad():
        own, known = model(faces), model(candidates)
    chosen = farthest(own, known, len(known), generators(faces, 0))
    assert torch.equal(chosen, (own @ known.T).argmin(1))
    by_seed = {tuple(farthest(own, known, 1, generators(faces, seed)).tolist()) for seed in range(5)}
    assert len(by_seed) > 1


def test_fawkes_moves_towards_its_target_within_its_budget(faces: Tensor) -> None:
    """The cloaked face is closer to the target than the clean one, at a DSSIM near the budget."""
    model, candidates = recogniser(0), patterns(9, seed=5)
    delta = fawkes(model, candidates, EPSILON, seed=0, choices=9, steps=40)(faces)
    with torch.no_grad():
        target = model(candidates)[(model(faces) @ model(candidates).T).argmin(1)]
        before, after = (model(faces) - target).norm(dim=1), (model(faces + delta) - target).norm(dim=1)
    assert (after < before - 0.1).all()
    spent = dssim((faces + delta).clamp(0, 1), faces)
    assert (spent < 1.5 * BUDGET).all() and (spent > 0.1 * BUDGET).all()


def test_a_larger_budget_buys_distance(faces: Tensor) -> None:
    """The DSSIM penalty is what holds a cloak back."""
    model, candidates = recogniser(0), patterns(9, seed=5)

    def spent(budget: float) -> float:
        delta = fawkes(model, candidates, EPSILON, seed=0, steps=40, budget=budget)(faces)
        return float(dssim((faces + delta).clamp(0, 1), faces).mean())

    assert spent(0.0005) < 0.5 * spent(1.0)


def test_fawkes_needs_candidates() -> None:
    """Without another person there is no target."""
    with pytest.raises(ValueError, match="0 candidates"):
        fawkes(recogniser(0), patterns(0), EPSILON, seed=0)


def test_released_network() -> None:
    """The U-Net keeps the size of its input, and has the 3.47 M parameters of the released one."""
    network = NoiseUNet()
    assert network(torch.zeros(2, 3, 112, 112)).shape == (2, 3, 112, 112)
    assert sum(parameter.numel() for parameter in network.parameters()) == 3_471_811


def test_released_output_saturates_at_the_bound(faces: Tensor) -> None:
    """However large the network's answer, the perturbation is cut to epsilon."""
    model = random_released()
    with torch.no_grad():
        model.unet.up[-1].weight.mul_(1e4)
        model.alpha.fill_(100)
    delta = released_apf(model, recogniser(0), EPSILON, seed=0)(faces)
    assert (delta.abs() == delta.abs().max()).float().mean() > 0.9
    assert delta.abs().max().item() <= EPSILON


def test_released_sees_the_noise_alone() -> None:
    """Without noise the output is the universal part: conv1x1(alpha * UAP + beta)."""
    model = random_released()
    with torch.no_grad():
        for module in (*model.unet.down, *model.unet.up):
            module.bias.zero_()
        out = model(torch.zeros(1, 3, 112, 112))
    assert torch.allclose(out[0], 0.5 * model.uap)


def test_probe_noise_leads_away_from_the_second_photo(people: Faces) -> None:
    """Ten steps raise the probe's distance to the second photo, in units of epsilon within [-1, 1]."""
    probe, x, y = recogniser(0), people.batch(torch.tensor([0, 2])), people.batch(torch.tensor([1, 3]))
    found = probe_noise(probe, x, y, generators(x, 0), epsilon=EPSILON)
    assert found.abs().max().item() <= 1
    with torch.no_grad():
        before, after = (
            (probe((x + part).clamp(0, 1)) * probe(y)).sum(1).mean() for part in (noise(EPSILON, 0)(x), EPSILON * found)
        )
    assert after < before - 0.1


def test_turned_faces_turn_only_so_far(faces: Tensor) -> None:
    """Rotation and scale move a face, each in its own way, and its middle stays."""
    dot = torch.zeros(3, 3, 112, 112)
    dot[:, :, 52:60, 52:60] = 1
    found = turned(dot, generators(faces, 0))
    assert not torch.equal(found[0], found[1])
    rows = torch.arange(112.0)
    middle = (found[:, 0].sum(2) * rows).sum(1) / found[:, 0].sum((1, 2))
    assert middle.tolist() == pytest.approx([55.5] * 3, abs=0.1)


@pytest.fixture(scope="module")
def trained(people: Faces, tmp_path_factory: pytest.TempPathFactory) -> tuple[ReleasedApf, Path]:
    run = tmp_path_factory.mktemp("run")
    return train_released(recogniser(0), recogniser(1), people, steps=14, seed=0, run=run, batch=4), run


def test_training_lowers_its_loss(trained: tuple[ReleasedApf, Path], people: Faces) -> None:
    """After training the server sees less of the person than with the untrained model."""
    x = people.batch(torch.arange(0, 12, 2))
    probe, server = recogniser(0), recogniser(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        untrained = ReleasedApf(trained[0].uap)
    before, after = (
        own_similarity(server, x, released_apf(model, probe, EPSILON, seed=0)(x)) for model in (untrained, trained[0])
    )
    assert after < before - 0.02


def test_training_twice_is_free(
    trained: tuple[ReleasedApf, Path], people: Faces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second call makes no noise, takes no step, and gives the same model."""

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("worked again")

    monkeypatch.setattr(released_training, "probe_noise", refuse)
    monkeypatch.setattr(torch.optim.Adam, "step", refuse)
    again = train_released(recogniser(0), recogniser(1), people, steps=14, seed=0, run=trained[1], batch=4)
    for name, value in again.state_dict().items():
        assert torch.equal(value, trained[0].state_dict()[name])


def test_broken_off_training_resumes(people: Faces, tmp_path: Path) -> None:
    """Two steps and two more are the four steps that were never broken off; another server starts anew."""

    def train(steps: int, folder: str, server: int = 1) -> ReleasedApf:
        return train_released(
            recogniser(0), recogniser(server), people, steps=steps, seed=0, run=tmp_path / folder, batch=2, photos=4
        )

    train(2, "broken")
    resumed, whole = train(4, "broken"), train(4, "whole")
    assert torch.allclose(resumed.unet.up[-1].weight, whole.unet.up[-1].weight, atol=1e-6)
    other = train(2, "broken", server=2)
    assert not torch.equal(other.uap, whole.uap)


def test_training_needs_two_photos(people: Faces, tmp_path: Path) -> None:
    """People with one photo each are refused, with the cure."""
    with pytest.raises(DataError, match="two photos"):
        train_released(recogniser(0), recogniser(1), people.select([0, 2]), steps=1, seed=0, run=tmp_path)


def test_registry_is_lazy(people: Faces, tmp_path: Path, faces: Tensor) -> None:
    """All rows are there; probe and faces are asked for when a row that needs them is built, and once."""
    asked = []

    def probe() -> Recogniser:
        asked.append("probe")
        return recogniser(0)

    def training_faces() -> Faces:
        asked.append("faces")
        return people

    found = rivals(
        {"one": recogniser(1), "two": recogniser(2)},
        probe=probe,
        faces=training_faces,
        run=tmp_path,
        epsilon=EPSILON,
        seed=0,
        server="two",
        released_steps=1,
    )
    assert list(found) == [
        "noise",
        "sign noise",
        "PGD-10 (probe)",
        "released APF",
        "MI-DI-10",
        "MI-DI-40",
        "LowKey-like",
        "Fawkes-like",
    ]
    built = {name: build() for name, build in found.items() if name not in ("PGD-10 (probe)", "released APF")}
    assert asked == ["faces"]
    built |= {name: build() for name, build in found.items() if name not in built}
    assert asked == ["faces", "probe"]
    for perturb in (built["released APF"], built["PGD-10 (probe)"]):
        assert 0 < perturb(faces[:1]).abs().max().item() <= EPSILON


def test_unknown_server_is_named(tmp_path: Path, people: Faces) -> None:
    """The message lists the surrogates that there are."""
    with pytest.raises(ValueError, match="'three': use one of one"):
        rivals(
            {"one": recogniser(1)},
            probe=lambda: recogniser(0),
            faces=lambda: people,
            run=tmp_path,
            epsilon=EPSILON,
            seed=0,
            server="three",
        )


def test_one_photo_of_each_person(people: Faces) -> None:
    """Candidates are the first photos of different people, as many as asked for or as there are."""
    assert torch.equal(one_each(people, 99), people.batch(torch.arange(0, 12, 2)))
    assert torch.equal(one_each(people, 2), people.batch(torch.tensor([0, 10])))
