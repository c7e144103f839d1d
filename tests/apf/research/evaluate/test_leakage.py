"""Attacks on gradients: they learn where there is something to learn, guess where there is not, and are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from typer.testing import CliRunner, Result

import apf.stages.gradient
from apf.filters.torch_filter import Filter
from apf.guides.torch_recogniser import Recogniser
from apf.recipe import Recipe
from apf.research.evaluate import methods
from apf.research.evaluate.leakage import gradients, training
from apf.research.evaluate.leakage.__main__ import app
from apf.research.evaluate.leakage.attacks import Leaks, Measured, few, leaks
from apf.research.evaluate.leakage.clipped import Noise, Shown, released, shown
from apf.research.evaluate.leakage.comparing import alignments
from apf.research.evaluate.leakage.gradients import Sent, gradients_of, seeds_of, sent
from apf.research.evaluate.leakage.reductions import ROWS
from apf.research.evaluate.leakage.rows import Report, kept
from apf.research.evaluate.leakage.training import Lesson, common, own, slug
from apf.research.evaluate.leakage.verify import Told, auc, between, itself
from apf.research.evaluate.targets import Pairs, pairs, target
from apf.research.model_list import load_recognisers
from apf.research.train.data import Faces, is_held_out, load_faces
from apf.stages.constants import CHANNELS
from apf.stages.probe import BLOCK_DIM, BLOCKS, Probe
from apf.stages.transfer_network import TransferNet
from tests.apf.research.evaluate import world
from tests.apf.stages.test_models import linear_network

SIGN = ROWS["sign"]


def test_rates_are_those_of_the_pairs() -> None:
    """Found pairs and AUC, counted by hand: ties count half, and a photo is not compared with itself."""
    genuine, impostors = torch.tensor([0.9, 0.5, 0.2]), torch.tensor([0.5, 0.1, 0.3, 0.0])
    by_hand = np.mean([[(a > b) + 0.5 * (a == b) for b in impostors.tolist()] for a in genuine.tolist()])
    assert auc(genuine, impostors) == pytest.approx(by_hand)
    assert Told.of(genuine, impostors).tar_percent == pytest.approx(100 / 3)
    similarity = torch.tensor([[1.0, 0.2, 0.3], [0.2, 1.0, 0.4], [0.3, 0.4, 1.0]])
    told = between(similarity, ("a", "a", "b"))
    assert (told.tar_percent, told.auc) == (0, 0)
    assert itself(similarity, ("a", "a", "b")).auc == 1


def test_chance_is_one_in_a_hundred() -> None:
    """Random similarities find a pair as often as they take strangers for one person."""
    similarity = torch.randn(400, 400, generator=torch.Generator().manual_seed(0))
    told = between(similarity, [str(number // 4) for number in range(400)])
    assert told.tar_percent == pytest.approx(1, abs=1) and told.auc == pytest.approx(0.5, abs=0.03)


def test_nobody_counts_more_than_a_few_times() -> None:
    """Of a person with many photos only the first ones are linked."""
    assert few(["a", "a", "b", "a", "c"], most=2) == [0, 1, 2, 4]


@pytest.fixture(scope="module")
def dark_corner() -> Tensor:
    """Faces (4, 3, 112, 112) of a soft pattern, a quarter of it black and a quarter white."""
    coarse = torch.rand(4, 3, 14, 14, generator=torch.Generator().manual_seed(1))
    faces = 0.2 + 0.6 * F.interpolate(coarse, (112, 112), mode="bilinear")
    faces[:, :, :56, :56], faces[:, :, 56:, 56:] = 0, 1
    return faces


@pytest.mark.rotating("evaluation")
def test_only_clipped_noise_shows_black_and_white(dark_corner: Tensor, standard: Filter) -> None:
    """Noise of the released method tells black and white pixels by its sign; ours does not, whole or as signs."""
    epsilon = standard.recipe.epsilon

    def ours(faces: Tensor) -> Tensor:
        return torch.from_numpy(gradients_of(standard, faces)[:, :3])

    def signs(faces: Tensor) -> Tensor:
        return torch.from_numpy(SIGN.seen(gradients_of(standard, faces), range(len(faces)))[:, :3])

    noises: dict[str, Noise] = {"released": released(standard.probe, epsilon, 0), "ours": ours, "signs": signs}
    found = {(one.noise, one.end): one for one in shown(dark_corner, noises, epsilon) if one.kind == "as it is"}
    for end in ("black", "white"):
        clipped = found["released", end]
        assert clipped.auc > 0.75 and _away(clipped) > 0.2
        for name in ("ours", "signs"):
            assert found[name, end].auc == pytest.approx(0.5, abs=0.1)
            assert abs(_away(found[name, end])) < 0.1


def _away(one: Shown) -> float:
    assert one.away is not None
    return one.away


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches: this world is simple."""
    monkeypatch.setattr(training, "BATCH", 8)
    monkeypatch.setattr(training, "JUDGED", 2)


def people(photos: int = 2) -> Faces:
    """People of a coarse pattern each, a little other in each photo: 48 to learn from, 16 who are kept apart."""
    names = [f"person {number}" for number in range(400)]
    apart = [name for name in names if is_held_out(name)][:16]
    chosen = [name for name in names if not is_held_out(name)][:48] + apart
    random = torch.Generator().manual_seed(2)
    patterns = torch.rand(len(chosen), 1, 3, 4, 4, generator=random).expand(-1, photos, -1, -1, -1)
    seen = patterns + 0.05 * torch.randn(patterns.shape, generator=random)
    pixels = F.interpolate(seen.flatten(0, 1), (112, 112), mode="bilinear").clamp(0, 1)
    return Faces((255 * pixels).round().to(torch.uint8), tuple(name for name in chosen for _ in range(photos)))


def telling(faces: Faces) -> Sent:
    """Gradients that are the photos themselves, but for their range."""
    values = faces.pixels.repeat(1, 2, 1, 1).numpy().astype(np.float16) / 127.5 - 1
    return Sent(faces, values, tuple(range(len(faces))), seeds_of(faces.pixels))


def silent(faces: Faces) -> Sent:
    """Gradients that are noise."""
    values = np.random.default_rng(4).standard_normal((len(faces), 6, 112, 112)).astype(np.float16)
    return replace(telling(faces), gradients=values.clip(-1, 1))


def code(faces: Faces) -> Tensor:
    """(N, 320): what a recogniser of patterns says, a random map of the coarse colours."""
    coarse = F.adaptive_avg_pool2d(faces.pixels.float() / 255 - 0.5, 4).flatten(1)
    mixed = coarse @ torch.randn(48, BLOCKS * BLOCK_DIM, generator=torch.Generator().manual_seed(5))
    return F.normalize(mixed.view(-1, BLOCKS, BLOCK_DIM), dim=-1).flatten(1) / BLOCKS**0.5


class Colours(torch.nn.Module):
    """Recognises by the coarse colours."""

    def forward(self, faces: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(faces, 4).flatten(1)


def attack(make: Callable[[Faces], Sent], run: Path, steps: int) -> Leaks:
    """Learn from most people, attack the others."""
    found = make(people())
    names = found.faces.people
    apart = found.select([i for i, name in enumerate(names) if is_held_out(name)])
    known = found.select([i for i, name in enumerate(names) if not is_held_out(name)])
    torch.manual_seed(0)
    lesson = Lesson(known, code(known.faces), Probe().eval().requires_grad_(False))
    plain = ROWS["8 bits"]
    attacker = own(
        common(lesson, [plain], steps=steps, seed=0, run=run), lesson, plain, plain.seen, steps=5, seed=0, run=run
    )
    given: Pairs = pairs(apart.faces, 100)
    judge = target("colours", Recogniser(Colours()), people(), trained_on=False)
    return leaks(attacker, plain.seen, Measured(apart, code(apart.faces)), given, [judge])


@pytest.mark.rotating("evaluation")
@pytest.mark.usefixtures("short")
def test_an_attacker_learns_what_there_is_and_guesses_what_there_is_not(tmp_path: Path) -> None:
    """People it never saw are decoded and linked where gradients tell of them, and not where they are noise."""
    told = attack(telling, tmp_path / "telling", 40)
    guessed = attack(silent, tmp_path / "silent", 5)
    assert told.photos.auc > 0.9 and told.gradients.auc > 0.9
    assert told.photos.tar_percent > 30
    assert told.decoder.ssim > guessed.decoder.ssim + 0.1
    assert told.decoder.same_photo > guessed.decoder.same_photo
    assert abs(guessed.photos.auc - 0.5) < 0.2 and abs(guessed.gradients.auc - 0.5) < 0.2
    assert told.same_gradient.tar_percent == guessed.same_gradient.tar_percent == 100
    assert told.other_gradient.auc > 0.95 and abs(guessed.other_gradient.auc - 0.5) < 0.2


def test_gradients_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, standard: Filter) -> None:
    """A broken-off run goes on where it was, other faces are computed anew, and what is kept is the device's own."""
    monkeypatch.setattr(gradients, "BATCH", 2)
    asked: list[int] = []

    def counted(filter_: Filter, faces: Tensor) -> np.ndarray:
        asked.append(len(faces))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return np.full((len(faces), 6, 112, 112), len(asked), np.float32)

    monkeypatch.setattr(gradients, "gradients_of", counted)
    faces, file = world.faces(3), tmp_path / "gradients.npy"
    with pytest.raises(KeyboardInterrupt):
        sent(faces, standard, file)
    found = sent(faces, standard, file)
    assert asked == [2, 2, 2, 2]
    assert found.of(torch.tensor([0, 5]))[:, 0, 0, 0].tolist() == [1, 4]
    assert found.select([5]).of(torch.tensor([0]))[0, 0, 0, 0] == 4
    sent(faces, standard, file)
    assert len(asked) == 4
    sent(world.faces(2), standard, file)
    assert len(asked) == 6


def test_gradients_are_those_of_the_device(standard: Filter, crops: Tensor) -> None:
    """What the attackers see is what the server gets: the filter makes its own perturbation of it."""
    found = torch.from_numpy(gradients_of(standard, crops[:2]))
    assert torch.allclose(standard.perturbation_from(found), standard.perturbation(crops[:2]), atol=1e-5)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with people, five recognisers to learn from and a stranger."""
    folder = tmp_path_factory.mktemp("given")
    world.people(folder / "faces")
    world.models(folder / "models")
    index = json.loads((folder / "models" / "models.json").read_text())
    (folder / "models" / "models.json").write_text(json.dumps(index | _known(folder / "models")))
    return folder


def _known(folder: Path) -> dict[str, object]:
    """Recognisers whose embeddings are long enough for the probe's blocks, in the place of the tiny ones."""
    entries: dict[str, object] = {}
    for seed, name in enumerate(("known a", "known b", "known c", "known d", "known e")):
        data = linear_network(112, dim=BLOCK_DIM, seed=seed)
        (folder / f"{name}.onnx").write_bytes(data)
        entries[name] = {"role": "train", "input": {}, "sha256": hashlib.sha256(data).hexdigest()}
    return entries


def run(given: Path, out: Path, *options: str) -> Result:
    paths = ("--faces", given / "faces", "--models", given / "models", "--run", out / "run")
    return CliRunner().invoke(app, [*map(str, paths), *options])


@pytest.mark.rotating("evaluation")
@pytest.mark.usefixtures("short")
def test_the_command_from_end_to_end(given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON and a table come out; a second run reads its rows, and other settings are computed anew."""

    def load(recipe: Recipe | str = "standard", device: str = "cpu") -> Filter:
        torch.manual_seed(0)
        found = recipe if isinstance(recipe, Recipe) else Recipe(name=recipe, epsilon_levels=8, steps=0)
        return Filter(found, device, Probe(), TransferNet(CHANNELS), torch.randn(3, 112, 112))

    monkeypatch.setattr(Filter, "load", load)
    monkeypatch.setattr(methods, "load_filter", load)
    monkeypatch.setattr(apf.stages.gradient, "STEPS", 1)
    options = ["--only", "sign", "--only", "sign, turned", "--steps", "2", "--own-steps", "1", "--people", "3"]
    options += ["--json", str(tmp_path / "out.json"), "--markdown", str(tmp_path / "out.md")]
    result = run(given, tmp_path, *options)
    assert result.exit_code == 0, result.output
    first = Report.model_validate_json((tmp_path / "out.json").read_text())
    assert [row.name for row in first.rows] == ["sign", "sign, turned"]
    assert first.judges == ("stranger",) and first.learnt[1] + first.measured[1] == len(world.PEOPLE)
    assert first.ceiling.photo.ssim == pytest.approx(1) and first.ceiling.photo.same_photo == 100
    assert {one.noise for one in first.clipped} == {"released APF", "ours", "ours, sign"}
    table = (tmp_path / "out.md").read_text()
    assert all(name in table for name in ("| sign, turned | 6 |", "the mean face", "released APF"))
    kept = tmp_path / "run" / "rows" / f"{slug('sign, turned')}.json"
    written = kept.stat().st_mtime_ns
    assert run(given, tmp_path, *options).exit_code == 0
    assert kept.stat().st_mtime_ns == written
    assert Report.model_validate_json((tmp_path / "out.json").read_text()).rows == first.rows
    kept.write_text("cut o")
    assert run(given, tmp_path, *options).exit_code == 0
    assert Report.model_validate_json((tmp_path / "out.json").read_text()).rows == first.rows


def test_an_unknown_row_is_named(given: Path, tmp_path: Path) -> None:
    """A wrong name and a missing folder end with a line that says what would do."""
    missing = CliRunner().invoke(app, ["--faces", str(tmp_path / "none"), "--run", str(tmp_path)])
    assert missing.exit_code == 2 and "no faces at" in missing.output
    result = run(given, tmp_path, "--only", "whispered")
    assert result.exit_code == 2 and "no row named 'whispered'" in result.output


@pytest.mark.rotating("evaluation")
def test_real_gradients_name_the_photo_and_often_the_person(
    shared_faces: Path, shared_models: Path, standard: Filter
) -> None:
    """On real faces one bit a value finds the very photo for whoever holds the probe, and keeps the protection."""
    apart = load_faces(shared_faces).split()[1]
    two = [place for places in apart.by_person().values() if len(places) > 1 for place in places[:2]][:40]
    faces = apart.select(two)
    given = np.concatenate([gradients_of(standard, faces.batch(part)) for part in torch.arange(40).split(10)])
    alike = alignments(SIGN.seen(given, seeds_of(faces.pixels)), given)
    assert itself(alike, faces.people).tar_percent == 100
    assert between(alike, faces.people).auc > 0.7
    strangers = load_recognisers(shared_models, role="validate")
    judges = [target(name, found, faces, trained_on=False) for name, found in strangers.items()]
    whole, signs = (kept(standard, ROWS[name], pairs(faces, 20), judges) for name in ("8 bits", "sign"))
    assert signs.raw[0] > whole.raw[0] - 15
