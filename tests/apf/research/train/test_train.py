"""Training on a made-up world: tiny faces, tiny teachers. Reproducible, resumable, and never on what is kept apart."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner, Result

from apf.attack.bound import Bound
from apf.errors import WeightsError
from apf.filters.onnx_filter import TRANSFER_ONNX
from apf.filters.torch_filter import Filter
from apf.guides.torch_recogniser import Recogniser
from apf.research.train import attack, joint, loop, probe, teachers, transfer, universal
from apf.research.train.__main__ import Workshop, app
from apf.research.train.attack import Ensemble, Perturb
from apf.research.train.bounds import Attacked
from apf.research.train.data import DataError, Faces, is_held_out, load_faces
from apf.research.train.loop import Budget
from apf.research.train.probe import Projection, Targets
from apf.research.train.ssim import ssim
from apf.research.train.verification import verification
from apf.runtime.onnx_session import RuntimeNetwork
from apf.stages.compose import STAGES, answered
from apf.stages.constants import CHANNELS
from apf.stages.gradient import gradient
from apf.stages.numpy_gradient import LightProbe
from apf.stages.probe import BLOCK_DIM, BLOCKS, Probe, fused
from apf.stages.transfer import transfer as transfer_of
from apf.stages.transfer_network import TransferNet
from apf.stages.universal import bounded, combine

#: People enough that some are kept apart, with two photos each.
PEOPLE = [f"person {number}" for number in range(24)]
#: As many teachers as the probe has blocks.
TEACHERS = ("a", "b", "c", "d", "e")
UNSEEN = "unseen"
SEED_STEPS = 3

run_command = CliRunner().invoke


def teacher(seed: int) -> bytes:
    """An ONNX recogniser of one random matrix on 8 x 8 averages, embedding in 80 dimensions."""
    random = np.random.default_rng(seed)
    weights = numpy_helper.from_array(random.normal(size=(3 * 14 * 14, 80)).astype(np.float32), "weights")
    nodes = [
        helper.make_node("AveragePool", ["input"], ["pooled"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Flatten", ["pooled"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "weights"], ["embedding"]),
    ]
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)]
        for name, shape in (("input", ["N", 3, 112, 112]), ("embedding", ["N", 80]))
    ]
    graph = helper.make_graph(nodes, "teacher", *ends, initializer=[weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def faces_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PERSON/PICTURE.png: four pictures each, a blurred pattern of the person's own with a little noise."""
    folder = tmp_path_factory.mktemp("faces")
    for number, person in enumerate(PEOPLE):
        random = np.random.default_rng(number)
        own = random.integers(40, 216, (7, 7, 3), dtype=np.uint8)
        (folder / person).mkdir()
        for picture in range(4):
            large = np.asarray(Image.fromarray(own).resize((112, 112), Image.Resampling.BICUBIC)).astype(int)
            noisy = (large + random.integers(-20, 21, large.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / person / f"{picture}.png")
    return folder


@pytest.fixture(scope="module")
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five teachers and a recogniser of role `validate` whose file is no model: whoever opens it fails."""
    folder = tmp_path_factory.mktemp("models")
    index = {}
    for seed, name in enumerate(TEACHERS):
        data = teacher(seed)
        (folder / f"{name}.onnx").write_bytes(data)
        index[name] = {"role": "train", "input": {}, "sha256": hashlib.sha256(data).hexdigest()}
    index[UNSEEN] = {"role": "validate", "input": {}, "sha256": "0" * 64}
    (folder / f"{UNSEEN}.onnx").write_bytes(b"never to be opened in training")
    (folder / "models.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def shop(faces_folder: Path, models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop.open(faces_folder, models_folder, tmp_path_factory.mktemp("cache"), "cpu")


class Fragile(torch.nn.Module):
    """Four numbers a face: so few that a perturbation of many pixels can turn them around."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.weights = torch.randn(3 * 14 * 14, 4, generator=torch.Generator().manual_seed(seed))

    def forward(self, faces: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(faces, 8).flatten(1) @ self.weights


@pytest.fixture(scope="module")
def targets(shop: Workshop) -> Targets:
    return Targets.of(shop.ensemble.teachers, shop.ensemble.clean)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little to do in each step, and one step on the probe where there would be several."""
    for module, name, size in (
        (probe, "BATCH", 8),
        (probe, "HARD_BATCH", 4),
        (universal, "BATCH", 2),
        (transfer, "BATCH", 2),
        (joint, "BATCH", 2),
        (joint, "CLEAN_BATCH", 2),
    ):
        monkeypatch.setattr(module, name, size)
    monkeypatch.setattr("apf.stages.gradient.STEPS", 1)


def distilled(shop: Workshop, budget: Budget, run: Path, seed: int) -> dict[str, Tensor]:
    targets = Targets.of(shop.ensemble.teachers, shop.ensemble.clean)
    return probe.distil(shop.faces, targets, budget=budget, seed=seed, run=run).state_dict()


def hardened(shop: Workshop, budget: Budget, run: Path, seed: int) -> dict[str, Tensor]:
    targets = Targets.of(shop.ensemble.teachers, shop.ensemble.clean)
    return probe.harden(fresh_probe(), shop.faces, targets, budget=budget, seed=seed, run=run).state_dict()


def followed(shop: Workshop, budget: Budget, run: Path, seed: int) -> dict[str, Tensor]:
    targets = Targets.of(shop.ensemble.teachers, shop.ensemble.clean)
    start = bounded([fresh_universal().perturbation.detach()])
    return probe.follow(fresh_probe(), start, shop.faces, targets, budget=budget, seed=seed, run=run).state_dict()


def optimised(shop: Workshop, budget: Budget, run: Path, seed: int) -> dict[str, Tensor]:
    return universal.optimise(shop.faces, shop.ensemble, budget=budget, seed=seed, run=run).state_dict()


def learned(shop: Workshop, budget: Budget, run: Path, seed: int) -> dict[str, Tensor]:
    known = fresh_probe().requires_grad_(False)
    uap = fresh_universal()
    network = transfer.learn(shop.faces, shop.ensemble, known, uap, budget=budget, seed=seed, run=run)
    return {**network.state_dict(), "uap": uap.perturbation.detach()}


def tuned(shop: Workshop, budget: Budget, run: Path, seed: int) -> dict[str, Tensor]:
    wanted = Targets.of(shop.ensemble.teachers, shop.ensemble.clean).clean
    torch.manual_seed(7)
    modules = joint.Modules(fused(fresh_probe()), TransferNet(CHANNELS), fresh_universal())
    joint.tune(shop.faces, shop.ensemble, wanted, modules, budget=budget, seed=seed, run=run)
    return {
        f"{name} {key}": value.detach()
        for name in ("probe", "network", "uap")
        for key, value in getattr(modules, name).state_dict().items()
    }


def fresh_probe() -> Probe:
    torch.manual_seed(5)
    return Probe().eval()


def fresh_universal() -> universal.UniversalPerturbation:
    torch.manual_seed(6)
    return universal.UniversalPerturbation()


Training = Callable[[Workshop, Budget, Path, int], dict[str, Tensor]]
TRAININGS = pytest.mark.parametrize("training", [distilled, hardened, followed, optimised, learned, tuned])


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.rotating("training")
@TRAININGS
@pytest.mark.usefixtures("small_batches")
def test_a_seed_is_a_run(shop: Workshop, tmp_path: Path, training: Training) -> None:
    """The same seed gives the same weights to the bit, another seed others."""
    budget = Budget(steps=2)
    first = training(shop, budget, tmp_path / "1", 0)
    torch.rand(3)
    assert equal(first, training(shop, budget, tmp_path / "2", 0))
    assert not equal(first, training(shop, budget, tmp_path / "3", 1))


@pytest.mark.rotating("training")
@TRAININGS
@pytest.mark.usefixtures("small_batches")
def test_a_broken_off_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, shop: Workshop, tmp_path: Path, training: Training
) -> None:
    """A run broken off after two checkpointed steps and begun again ends with the bits of an unbroken one."""
    budget = Budget(steps=SEED_STEPS)
    whole = training(shop, budget, tmp_path / "whole", 0)
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", -1.0)  # after every step
    save, saved = loop._save, []

    def save_twice(*args: Any) -> None:
        save(*args)
        saved.append(args)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_save", save_twice)
    with pytest.raises(KeyboardInterrupt):
        training(shop, budget, tmp_path / "broken", 0)
    assert equal(whole, training(shop, budget, tmp_path / "broken", 0))


def test_minutes_end_a_run(tmp_path: Path) -> None:
    """A run whose time is up leaves a checkpoint and no weights, and the same run goes on from there."""
    ran: list[int] = []

    def run(minutes: float) -> None:
        state: dict[str, loop.Stateful] = {"it": torch.nn.Linear(1, 1)}
        torch.nn.init.zeros_(state["it"].weight)  # type: ignore[attr-defined]
        torch.nn.init.zeros_(state["it"].bias)  # type: ignore[attr-defined]
        budget = Budget(steps=9, minutes=minutes)
        loop.train(lambda n, _: ran.append(n) or {}, state, budget=budget, seed=0, run=tmp_path, name="it")  # type: ignore[func-returns-value]

    with pytest.raises(loop.OutOfTime, match="0 of 9 steps are done; the same command goes on"):
        run(minutes=0)
    assert (tmp_path / "it.pt").exists()
    run(minutes=1)
    assert ran == list(range(9))


def test_log_holds_means(tmp_path: Path) -> None:
    """Every twentieth step, the means since the last are appended to a CSV with one header."""
    budget = Budget(steps=2 * loop.LOG_EVERY_STEPS)
    state: dict[str, loop.Stateful] = {"it": torch.nn.Linear(1, 1)}
    loop.train(lambda n, _: {"number": float(n)}, state, budget=budget, seed=0, run=tmp_path, name="it")
    header, first, second = (tmp_path / "it.csv").read_text().splitlines()
    assert header == "step,seconds,number"
    assert first.startswith("20,") and first.endswith(",9.5")
    assert second.startswith("40,") and second.endswith(",29.5")


def seen_as_wanted(found: Probe, faces: Tensor, wanted: Tensor) -> float:
    """Mean cosine between the probe's blocks and the teachers' targets."""
    with torch.no_grad():
        return (found.blocks(faces) * wanted).sum(-1).mean().item()


@pytest.mark.rotating("training")
@pytest.mark.usefixtures("small_batches")
def test_probe_learns(shop: Workshop, targets: Targets, tmp_path: Path) -> None:
    """Thirty steps bring the probe nearer to its teachers than a fresh one."""
    faces = shop.faces.batch(torch.arange(len(shop.faces)))
    found = probe.distil(shop.faces, targets, budget=Budget(steps=30), seed=0, run=tmp_path)
    assert not found.training
    before, after = (seen_as_wanted(it, faces, targets.clean) for it in (fresh_probe(), found))
    assert after > before + 0.03


@pytest.mark.rotating("training")
@pytest.mark.usefixtures("small_batches")
def test_second_course_learns_perturbed_faces(shop: Workshop, targets: Targets, tmp_path: Path) -> None:
    """The second course brings the probe nearer to what the teachers say of faces perturbed against it."""
    faces = shop.faces.batch(torch.arange(8))
    found = probe.harden(fresh_probe(), shop.faces, targets, budget=Budget(steps=30), seed=0, run=tmp_path)
    assert not found.training
    scores = []
    for it in (fresh_probe(), found):
        delta = probe._against(it, faces, torch.Generator().manual_seed(0))
        perturbed = (faces + delta).clamp(0, 1)
        scores.append(seen_as_wanted(it, perturbed, targets(perturbed)))
    assert scores[1] > scores[0] + 0.03


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize(("epsilon", "alike"), [(4 / 255, 0.8), (12 / 255, 0.4)], ids=["small", "large"])
def test_perturbed_faces_stay_in_bound(
    monkeypatch: pytest.MonkeyPatch, shop: Workshop, epsilon: float, alike: float, steps: int
) -> None:
    """Faces are perturbed up to epsilon, no further, and to where they are little like themselves."""
    monkeypatch.setattr(probe, "EPSILONS", (epsilon,))
    monkeypatch.setattr(probe, "ATTACK_STEPS", (steps,))
    known, faces = Recogniser(Fragile(0)), shop.faces.batch(torch.arange(4))
    delta = probe._against(known, faces, torch.Generator().manual_seed(1))  # type: ignore[arg-type]
    assert not delta.requires_grad
    assert 0.9 * epsilon < delta.abs().max() <= epsilon * (1 + 1e-6)
    assert (known(faces) * known(faces + delta)).sum(1).mean() < alike


@pytest.mark.rotating("training")
@pytest.mark.usefixtures("small_batches")
def test_second_course_shows_clean_faces_too(
    monkeypatch: pytest.MonkeyPatch, shop: Workshop, targets: Targets, tmp_path: Path
) -> None:
    """The teachers are asked about the very faces that the probe sees: pixels in [0, 1], a quarter of them clean."""
    against, asked, deltas = probe._against, [], []

    def seen_against(known: Probe, faces: Tensor, generator: torch.Generator) -> Tensor:
        assert not known.training, "BatchNorm would mix the faces of a batch"
        deltas.append(against(known, faces, generator))
        return deltas[-1]

    class Asked(Targets):
        def __call__(self, faces: Tensor) -> Tensor:
            asked.append(faces)
            return super().__call__(faces)

    monkeypatch.setattr(probe, "_against", seen_against)
    asking = Asked(targets.teachers, targets.projections, targets.clean)
    probe.harden(fresh_probe(), shop.faces, asking, budget=Budget(steps=2), seed=0, run=tmp_path)
    assert len(asked) == len(deltas) == 2
    for faces, delta in zip(asked, deltas, strict=True):
        assert faces.shape == (4, 3, 112, 112) and faces.min() >= 0 and faces.max() <= 1
        assert [bool(one.any()) for one in delta] == [False, True, True, True]


@pytest.mark.rotating("training")
@pytest.mark.usefixtures("small_batches")
def test_third_course_learns_the_road(
    monkeypatch: pytest.MonkeyPatch, shop: Workshop, targets: Targets, tmp_path: Path
) -> None:
    """The third course brings the probe nearer to what the teachers say of faces along the filter's own steps."""
    monkeypatch.setattr(probe, "ROAD_LR", probe.PEAK_LR)  # this probe is fresh, not one of two courses
    faces, start = shop.faces.batch(torch.arange(8)), bounded([fresh_universal().perturbation.detach()])
    budget = Budget(steps=30)
    found = probe.follow(fresh_probe(), start, shop.faces, targets, budget=budget, seed=0, run=tmp_path)
    assert not found.training
    scores = []
    for it in (fresh_probe(), found):
        delta = probe._along(it, start, faces, torch.Generator().manual_seed(0))
        perturbed = (faces + delta).clamp(0, 1)
        scores.append(seen_as_wanted(it, perturbed, targets(perturbed)))
    assert scores[1] > scores[0] + 0.03


def road(shop: Workshop, start: Tensor) -> list[Tensor]:
    """Forty points of two faces' roads, in units of epsilon."""
    known: Any = Recogniser(Fragile(0))
    faces = shop.faces.batch(torch.arange(2))
    return [probe._along(known, start, faces, torch.Generator().manual_seed(n)) * 255 / 8 for n in range(40)]


def test_road_is_the_gradient_stage_s_own(monkeypatch: pytest.MonkeyPatch, shop: Workshop) -> None:
    """Points of the road are what the stage reaches after some steps: none gives the start, all the end."""
    monkeypatch.setattr(probe, "EPSILONS", (8 / 255,))
    monkeypatch.setattr(probe, "OWN_START", 0.0)
    start = bounded([fresh_universal().perturbation.detach()])
    found = road(shop, start)
    known: Any = Recogniser(Fragile(0))
    end = gradient(known, shop.faces.batch(torch.arange(2)), 8 / 255, start)[:, :3]
    assert not any(units.requires_grad for units in found)
    assert max(units.abs().max().item() for units in found) <= 1 + 1e-6
    assert any(torch.allclose(units, start.expand_as(units), atol=1e-6) for units in found)
    nearest = min((units - end).abs().mean().item() for units in found)
    assert nearest < 0.05 < (start - end).abs().mean().item()


def test_road_has_other_starts_too(monkeypatch: pytest.MonkeyPatch, shop: Workshop) -> None:
    """Some batches start from random signs, so that the probe stays good where a recipe has no universal part."""
    monkeypatch.setattr(probe, "EPSILONS", (8 / 255,))
    monkeypatch.setattr(probe, "OWN_START", 1.0)
    found = road(shop, torch.zeros(3, 112, 112))
    begun = [units for units in found if torch.allclose(units.abs(), torch.full_like(units, 0.5), atol=1e-6)]
    assert len(begun) > 1 and not torch.equal(begun[0], begun[1])


def test_projection_is_a_pca() -> None:
    """A teacher's target is its centred embedding on the leading eigenvectors of the covariance, as numpy finds them.

    Eigenvectors have no sign of their own, so cosines between faces are compared.
    """
    torch.manual_seed(0)
    known = torch.nn.functional.normalize(torch.randn(300, 80) * torch.linspace(2, 1, 80) + 1)
    points = known.numpy().astype(np.float64)
    centred = points - points.mean(0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    leading = centred @ vectors[:, ::-1][:, :BLOCK_DIM]
    leading /= np.linalg.norm(leading, axis=1, keepdims=True)
    found = Projection.of(known)(known)
    assert found.shape == (len(known), BLOCK_DIM)
    np.testing.assert_allclose((found @ found.T).numpy(), leading @ leading.T, atol=1e-4)


def test_projection_of_other_faces(shop: Workshop) -> None:
    """Faces that the projection was not made from are centred and turned as those that it was."""
    known = shop.ensemble.clean["b"]
    projection = Projection.of(known)
    assert torch.allclose(projection(known[3:5]), projection(known)[3:5], atol=1e-6)
    assert torch.allclose(projection.components.T @ projection.components, torch.eye(BLOCK_DIM), atol=1e-5)


def test_targets_are_sorted_by_name(shop: Workshop, targets: Targets) -> None:
    """Block for block one teacher, whatever order they were listed in: a resumed run means the same blocks."""
    clean = shop.ensemble.clean
    turned = Targets.of(dict(reversed(shop.ensemble.teachers.items())), dict(reversed(clean.items())))
    assert list(targets.projections) == list(turned.projections) == sorted(TEACHERS)
    assert targets.clean.shape == (len(shop.faces), BLOCKS, BLOCK_DIM)
    assert torch.equal(turned.clean, targets.clean)
    assert torch.equal(targets.clean[:, 2], Projection.of(clean["c"])(clean["c"]))


def test_targets_of_faces_seen_anew(shop: Workshop, targets: Targets) -> None:
    """Asked about a clean face the teachers say what is cached of it, in float32 and at unit length."""
    index = torch.tensor([5, 0, 9])
    found = targets(shop.faces.batch(index))
    assert found.dtype == torch.float32 and not found.requires_grad
    assert torch.allclose(found.norm(dim=-1), torch.ones(3, BLOCKS), atol=1e-5)
    assert (found * targets.clean[index]).sum(-1).min() > 0.98


@pytest.fixture(scope="module")
def fragile(shop: Workshop) -> Ensemble:
    known = {name: Recogniser(Fragile(seed)) for seed, name in enumerate(TEACHERS)}
    return Ensemble(known, {name: teachers.embed(it, shop.faces) for name, it in known.items()})


def measured(perturb: Perturb, faces: Faces, ensemble: Ensemble) -> np.ndarray:
    """Mean loss and mean likeness over batches that are always the same."""
    rows = []
    for number in range(8):
        with torch.no_grad():
            generator = torch.Generator().manual_seed(10_000 + number)
            _, figures = attack.attack_step(perturb, faces, ensemble, 6, "cpu", generator)
        rows.append((figures["loss"], figures["likeness"]))
    return np.mean(rows, axis=0)


@pytest.fixture
def large_epsilon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Teachers so crude need much before they are fooled, and more than may be seen."""
    monkeypatch.setattr(attack, "EPSILONS", (32.0,))
    monkeypatch.setattr(attack, "CHROMA", 1.0)
    monkeypatch.setattr(attack, "SSIM_WEIGHT", 0.0)
    monkeypatch.setattr(attack, "SHADING_WEIGHT", 0.0)


@pytest.mark.rotating("training")
@pytest.mark.usefixtures("small_batches", "large_epsilon")
def test_universal_learns(shop: Workshop, fragile: Ensemble, tmp_path: Path) -> None:
    """Sixty mini-batches make one perturbation under which the teachers know most faces less, at a lower loss."""

    def by(uap: universal.UniversalPerturbation) -> Perturb:
        return lambda seen, epsilon, _: (combine([uap(len(seen))], epsilon), None)

    before = measured(by(fresh_universal()), shop.faces, fragile)
    found = universal.optimise(shop.faces, fragile, budget=Budget(steps=60), seed=0, run=tmp_path)
    assert (measured(by(found), shop.faces, fragile) < before - 0.1).all()


@pytest.mark.rotating("training")
@pytest.mark.usefixtures("small_batches", "large_epsilon")
def test_transfer_learns(shop: Workshop, fragile: Ensemble, tmp_path: Path) -> None:
    """Forty steps make a network that beats passing on what was reached, with the universal part and without it."""
    known: Any = Recogniser(Fragile(0))
    uap = fresh_universal()

    def by(network: TransferNet, *, together: bool) -> Perturb:
        def perturb(seen: Tensor, epsilon: float, _: torch.Generator) -> tuple[Tensor, None]:
            parts = [uap(len(seen))] if together else []
            found = gradient(known, seen, epsilon, bounded(parts) if parts else None)
            return combine([transfer_of(network, found), *parts], epsilon), None

        return perturb

    def both(network: TransferNet) -> np.ndarray:
        return np.stack([measured(by(network, together=it), shop.faces, fragile) for it in (True, False)])

    start, before = uap.perturbation.detach().clone(), both(TransferNet(CHANNELS))
    network = transfer.learn(shop.faces, fragile, known, uap, budget=Budget(steps=40), seed=0, run=tmp_path)
    assert (both(network) < before - 0.005).all()
    assert not torch.equal(uap.perturbation, start), "the universal part did not follow"


@pytest.mark.rotating("training")
@pytest.mark.usefixtures("small_batches")
def test_going_on_starts_from_what_is_there(faces_folder: Path, models_folder: Path, tmp_path: Path) -> None:
    """`--go-on` with no step to do gives the files' own weights back; without it a training starts from scratch."""
    for name, more in (("probe", ["--hard-steps", "0"]), ("universal", []), ("transfer", [])):
        command(name, faces_folder, models_folder, tmp_path, "--steps", "1", *more)
    out = tmp_path / "out"
    for name in ("universal", "transfer"):
        before = load_file(out / f"{name}.safetensors")
        for number, more in enumerate((["--go-on"], [])):
            run = ["--run", str(tmp_path / f"{name} {number}"), "--steps", "0"]
            result = command(name, faces_folder, models_folder, tmp_path, *run, *more)
            assert result.exit_code == 0, result.output
            assert equal(before, load_file(out / f"{name}.safetensors")) == bool(more)


@pytest.mark.rotating("training")
@pytest.mark.usefixtures("small_batches", "large_epsilon")
def test_joint_training_learns(shop: Workshop, fragile: Ensemble, tmp_path: Path) -> None:
    """Sixty steps make all stages fool the teachers more at a lower price, and the probe and its start take part."""
    wanted = Targets.of(shop.ensemble.teachers, shop.ensemble.clean).clean
    modules = joint.Modules(fused(fresh_probe()), TransferNet(CHANNELS), fresh_universal())

    def whole(seen: Tensor, epsilon: float, _: torch.Generator) -> tuple[Tensor, Tensor | None]:
        return answered(modules.probe, modules.network, modules.uap.perturbation, seen, epsilon, STAGES)

    before = measured(whole, shop.faces, fragile)
    start = {name: value.clone() for name, value in modules.probe.state_dict().items()}
    joint.tune(shop.faces, fragile, wanted, modules, budget=Budget(steps=60), seed=0, run=tmp_path)
    assert (measured(whole, shop.faces, fragile) < before - 0.01).all()
    assert not torch.equal(modules.probe.state_dict()["trunk.0.0.weight"], start["trunk.0.0.weight"])


@pytest.mark.rotating("training")
@pytest.mark.usefixtures("small_batches")
def test_joint_training_leaves_stages_out(monkeypatch: pytest.MonkeyPatch, shop: Workshop) -> None:
    """Some steps go without the network, some without the universal part, and some with that alone."""
    modules = joint.Modules(fused(fresh_probe()), TransferNet(CHANNELS), fresh_universal())
    seen: list[tuple[str, ...]] = []

    def recorded(*given: Any, differentiable: bool) -> tuple[Tensor, None]:
        *_, faces, _, stages = given
        seen.append(stages)
        assert differentiable
        return torch.zeros_like(faces), None

    monkeypatch.setattr(joint, "answered", recorded)
    for number in range(90):
        modules.perturb(torch.rand(1, 3, 112, 112), 0.1, torch.Generator().manual_seed(number))
    assert set(seen) == {STAGES, ("gradient", "transfer"), ("gradient", "universal"), ("universal",)}
    assert seen.count(STAGES) > 45


def test_ssim_is_exact_under_half_precision() -> None:
    """Variances are small differences of large numbers: bfloat16 would leave neither value nor gradient of them."""
    generator = torch.Generator().manual_seed(0)
    faces = torch.rand((2, 3, 32, 32), generator=generator)
    delta = (0.02 * torch.randn(faces.shape, generator=generator)).requires_grad_(True)
    (wanted,) = torch.autograd.grad(ssim(faces, faces + delta).sum(), delta)
    with teachers.half_precision("cpu"):
        value = ssim(faces, faces + delta)
        (found,) = torch.autograd.grad(value.sum(), delta)
    assert torch.equal(value, ssim(faces, faces + delta))
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("other", ["seed", "weights", "data"])
def test_a_run_of_something_else_is_refused(tmp_path: Path, other: str) -> None:
    """A checkpoint is gone on with only by the seed, weights and data that it was begun with."""

    def run(seed: int = 0, weight: float = 0.0, data: float = 0.0) -> None:
        module = torch.nn.Linear(1, 1)
        torch.nn.init.constant_(module.weight, weight)
        torch.nn.init.zeros_(module.bias)
        given = [torch.full((2,), data)]
        budget = Budget(steps=1)
        loop.train(lambda *_: {}, {"it": module}, budget=budget, seed=seed, run=tmp_path, name="it", given=given)

    run()
    run()
    with pytest.raises(DataError, match="was begun with another seed, version, faces, models or weights"):
        run(**{{"seed": "seed", "weights": "weight", "data": "data"}[other]: 1})  # type: ignore[arg-type]


@pytest.mark.rotating("training")
@pytest.mark.usefixtures("small_batches")
def test_stages_are_trained_apart_too(monkeypatch: pytest.MonkeyPatch, shop: Workshop, tmp_path: Path) -> None:
    """Some steps see the universal part alone and some the network alone, from no start: recipes may ask for either."""
    seen: list[tuple[str, ...]] = []

    def recorded(*given: Any) -> tuple[Tensor, Tensor | None]:
        seen.append(given[-1])
        return answered(*given)

    monkeypatch.setattr(transfer, "answered", recorded)
    monkeypatch.setattr(transfer, "ALONE", 1 / 3)
    learned(shop, Budget(steps=12), tmp_path, 0)
    assert set(seen) == {STAGES, ("gradient", "transfer"), ("universal",)}


@pytest.mark.parametrize(
    ("likenesses", "expected"),
    [([1.0], 1.1025), ([1.0, -0.05], 0.55125), ([-0.5, -1.0], 0.0), ([0.45], 0.25)],
    ids=["known", "one of two knows", "no credit for more than enough", "half known is a quarter"],
)
def test_fooled(likenesses: list[float], expected: float) -> None:
    """What is left to be fooled, averaged over the teachers; those that still know the face weigh most."""
    found = attack.fooled([torch.full((3,), value) for value in likenesses])
    assert found.item() == pytest.approx(attack.FOOLED_WEIGHT * expected, abs=1e-6)


def waves(height: float, width: int) -> Tensor:
    """(1, 3, 112, 112): columns of alternating sign."""
    return height * torch.tensor([1.0, -1.0]).repeat_interleave(width).repeat(56 // width).expand(1, 3, 112, 112)


def busy_faces() -> Tensor:
    """Faces (1, 3, 112, 112) so rich in detail that a small perturbation costs no structure."""
    return torch.rand((1, 3, 112, 112), generator=torch.Generator().manual_seed(0))


def noisy(faces: Tensor, noise: Tensor, epsilon: float = 1.0) -> Attacked:
    """Faces with noise in units of their bound, of a recipe of so many levels."""
    return Attacked(faces, noise, Bound(epsilon, chroma=1, warp=0))


def test_power_within_the_bound_is_free() -> None:
    """Twice the noise pays twice for its roughness, and for nothing else, where the face hides it."""
    costs = [attack.visible(noisy(busy_faces(), waves(height, 2))).item() for height in (0.5, 1.0)]
    assert costs[1] == pytest.approx(2 * costs[0], rel=1e-3)
    assert costs[1] == pytest.approx(attack.ROUGHNESS_WEIGHT / 2 * 2 * 55 / 111, rel=1e-3)


def test_shading_costs() -> None:
    """Half of the face darker and half of it brighter pays for more than its one edge."""
    edge = attack.ROUGHNESS_WEIGHT / 2 * 2 * 0.5 / 111
    cost = attack.visible(noisy(busy_faces(), waves(0.5, 56))).item()
    assert cost == pytest.approx(edge + attack.SHADING_WEIGHT * (0.25 - attack.FREE_SHADING), rel=1e-3)


def test_roughness_costs() -> None:
    """Alternating columns pay for each difference to a neighbour; the same values side by side do not."""
    stripes, smooth = (attack.visible(noisy(busy_faces(), 0.5 * waves(1, width))).item() for width in (1, 2))
    assert stripes == pytest.approx(attack.ROUGHNESS_WEIGHT / 2, rel=1e-3)
    assert smooth == pytest.approx(attack.ROUGHNESS_WEIGHT / 2 * 55 / 111, rel=1e-3)


@pytest.mark.parametrize("epsilon", [10.0, 12.0])
def test_lost_structure_costs(epsilon: float) -> None:
    """Noise beside a face's own faint grain shows, and pays for it as much as SSIM says."""
    grain = 0.025 * torch.randn((1, 3, 112, 112), generator=torch.Generator().manual_seed(0))
    attacked = noisy(0.5 + grain, 0.7 * waves(1, 2), epsilon)
    lost = attacked.lost.item() / (epsilon / 10) ** attack.SSIM_GROWTH
    assert lost > attack.FREE_DISSIMILARITY
    rough = 0.7 * attack.ROUGHNESS_WEIGHT * 55 / 111
    expected = rough + attack.SSIM_WEIGHT * (lost - attack.FREE_DISSIMILARITY)
    assert attack.visible(attacked).item() == pytest.approx(expected, rel=1e-3)


def test_a_step_asks_some_teachers(shop: Workshop) -> None:
    """A few teachers are asked in a step, always others, and in the end all of them."""
    draws = [shop.ensemble._draw(torch.Generator().manual_seed(number)) for number in range(30)]
    assert all(len(set(names)) == attack.ASKED for names in draws)
    assert {name for names in draws for name in names} == set(TEACHERS)
    assert draws[0] == shop.ensemble._draw(torch.Generator().manual_seed(0))


def test_few_teachers_are_all_asked(shop: Workshop) -> None:
    """Where there are fewer teachers than are asked, all are."""
    two = replace(shop.ensemble, teachers={name: shop.ensemble.teachers[name] for name in ("b", "a")})
    assert sorted(two._draw(torch.Generator().manual_seed(0))) == ["a", "b"]


def test_likeness_under_half_precision(shop: Workshop) -> None:
    """Clean faces are alike to what is cached of them, in float32 even where teachers run in bfloat16."""
    index = torch.arange(4)
    faces = shop.faces.batch(index)
    with teachers.half_precision("cpu"):
        found = shop.ensemble.likeness(index, noisy(faces, 0 * faces), torch.Generator().manual_seed(0))
    assert len(found) == attack.ASKED
    for likeness in found.values():
        assert likeness.dtype == torch.float32 and likeness.shape == (4,) and 0.6 < likeness.min() <= 1


@pytest.mark.parametrize(("share", "road"), [(1.0, "pasted"), (0.0, "transformed")])
def test_teachers_see_faces_from_both_roads(
    monkeypatch: pytest.MonkeyPatch, shop: Workshop, share: float, road: str
) -> None:
    """Through a whole photo, within the step's own bound, or as an aligned crop."""
    seen: list[tuple[str, object]] = []

    def pasted(attacked: Attacked, generator: torch.Generator) -> Tensor:
        seen.append(("pasted", attacked.allowed.epsilon))
        return attacked.faces

    def transformed(faces: Tensor, generator: torch.Generator) -> Tensor:
        seen.append(("transformed", None))
        return faces

    monkeypatch.setattr(attack, "PASTED", share)
    monkeypatch.setattr(attack, "pasted", pasted)
    monkeypatch.setattr(attack, "transformed", transformed)
    faces = shop.faces.batch(torch.arange(2))
    shop.ensemble.likeness(torch.arange(2), noisy(faces, 0 * faces, 7.0), torch.Generator().manual_seed(0))
    assert seen == [(road, 7.0 if share else None)] * attack.ASKED


def test_strangers_are_no_likeness() -> None:
    """A teacher to whom all faces are alike has its own zero: there strangers are, on average."""
    common = torch.nn.functional.normalize(torch.randn(1, 16) + 5)
    embeddings = torch.nn.functional.normalize(common + 0.05 * torch.randn(400, 16))
    ensemble = Ensemble({}, {"soft": embeddings})
    cosines = embeddings @ embeddings.T
    strangers = cosines[~torch.eye(400, dtype=torch.bool)].mean().item()
    assert strangers > 0.9
    assert ensemble.strangers["soft"] == pytest.approx(strangers, abs=2e-3)


def test_faces_come_sharp_relit_grey_and_over_exposed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grey ones are told, and no face leaves [0, 1]; more than half have more detail, and each has light of its own."""
    faces = torch.rand((400, 3, 8, 8), generator=torch.Generator().manual_seed(1))
    relit, _ = attack.varied(faces, torch.Generator().manual_seed(0))
    assert not (relit == faces).flatten(1).all(1).any() and relit.min() >= 0 and relit.max() <= 1
    soft = 0.3 + 0.4 * faces
    monkeypatch.setattr(attack, "LIGHT_STD", 0.0)
    sharp, _ = attack.varied(soft, torch.Generator().manual_seed(0))
    detail = [one.diff(dim=3).abs().mean((1, 2, 3)) for one in (soft, sharp)]
    assert 0.5 < (detail[1] > 1.02 * detail[0]).float().mean() < 0.85
    monkeypatch.setattr(attack, "SHARPENED", 0.0)
    seen, grey = attack.varied(faces, torch.Generator().manual_seed(0))
    is_grey = (seen == seen[:, :1]).flatten(1).all(1)
    assert torch.equal(is_grey, grey.flatten())
    assert 0.02 < is_grey.float().mean() < 0.2
    brighter = (seen.mean((1, 2, 3)) > faces.mean((1, 2, 3)) + 0.02) & ~is_grey
    assert 0.03 < brighter.float().mean() < 0.25
    assert seen.min() >= 0 and seen.max() <= 1
    same = (seen == faces).flatten(1).all(1)
    assert same.float().mean() > 0.7, "neither grey nor over-exposed"


def test_grey_faces_get_grey_perturbations(monkeypatch: pytest.MonkeyPatch, shop: Workshop) -> None:
    """As pasting does it, so that training sees what will be left of it."""
    monkeypatch.setattr(attack, "GREY", 1.0)
    kept: list[Tensor] = []
    monkeypatch.setattr(attack, "visible", lambda attacked: kept.append(attacked.noise) or attacked.noise.sum())

    def coloured(seen: Tensor, epsilon: float, _: torch.Generator) -> tuple[Tensor, None]:
        return epsilon * torch.tensor([1.0, -1.0, 0.3]).view(1, 3, 1, 1).expand_as(seen), None

    attack.attack_step(coloured, shop.faces, shop.ensemble, 2, "cpu", torch.Generator().manual_seed(0))
    assert torch.equal(kept[0], kept[0][:, :1].expand_as(kept[0]))


def test_transforms_let_gradients_through(shop: Workshop) -> None:
    """Whatever a platform is played to do, JPEG and smaller sizes too, a pixel's gradient comes back."""
    faces = shop.faces.batch(torch.arange(2))
    seen = []
    for number in range(12):
        x = faces.clone().requires_grad_(True)
        seen.append(attack.transformed(x, torch.Generator().manual_seed(number)))
        (found,) = torch.autograd.grad(seen[-1].square().sum(), x)
        assert seen[-1].shape == faces.shape
        assert (found != 0).float().mean() > 0.8
    assert all(not torch.equal(one, other) for one, other in pairwise(seen))


def test_validate_models_are_never_opened(shop: Workshop, models_folder: Path) -> None:
    """Training knows the teachers of role `train` alone; a folder of others is an error, not a fallback."""
    assert sorted(shop.ensemble.teachers) == sorted(TEACHERS)
    assert sorted(shop.ensemble.clean) == sorted(TEACHERS)


def test_no_teachers(tmp_path: Path) -> None:
    """A folder without a recogniser to train on says so."""
    index = {UNSEEN: {"role": "validate", "input": {}, "sha256": ""}}
    (tmp_path / "models.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match="no recogniser of role 'train'"):
        teachers.load_teachers(tmp_path)


def test_held_out_people_are_never_trained_on(shop: Workshop) -> None:
    """The split is by person: nobody is on both sides, nobody is lost, and the side hangs on the name alone."""
    train, held_out = set(shop.faces.people), set(shop.held_out.people)
    assert train and held_out and not train & held_out
    assert train | held_out == set(PEOPLE)
    assert held_out == {person for person in PEOPLE if is_held_out(person)}
    for known in shop.ensemble.clean.values():
        assert len(known) == len(shop.faces)


def test_a_tenth_is_held_out() -> None:
    """About a tenth of many people is kept apart."""
    assert 0.08 < np.mean([is_held_out(f"somebody {number}") for number in range(5000)]) < 0.12


def test_tar_and_folder_are_alike(faces_folder: Path, tmp_path: Path) -> None:
    """The same pictures as a tar file or a folder give the same faces in the same order."""
    with tarfile.open(tmp_path / "faces.tar", "w") as tar:
        for file in sorted(faces_folder.rglob("*.png"), reverse=True):
            tar.add(file, arcname=file.relative_to(faces_folder).as_posix())
    one, other = load_faces(faces_folder), load_faces(tmp_path / "faces.tar")
    assert one.people == other.people and torch.equal(one.pixels, other.pixels)


def test_cached_embeddings_belong_to_their_faces(shop: Workshop, tmp_path: Path) -> None:
    """Cached embeddings are used again for the same faces, and made anew for others."""
    some = {"a": shop.ensemble.teachers["a"]}
    first = teachers.embeddings(some, shop.faces, tmp_path)["a"]
    same = NotAsked(some["a"].key)
    assert torch.equal(teachers.embeddings({"a": same}, shop.faces, tmp_path)["a"], first)  # type: ignore[dict-item]
    with pytest.raises(AssertionError, match="embedded again"):
        teachers.embeddings({"a": NotAsked("of another file")}, shop.faces, tmp_path)  # type: ignore[dict-item]
    assert len(teachers.embeddings(some, shop.held_out, tmp_path)["a"]) == len(shop.held_out)


class NotAsked(torch.nn.Module):
    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key

    def forward(self, faces: Tensor) -> Tensor:
        raise AssertionError("embedded again in spite of the cache")


def test_verification_counts_pairs() -> None:
    """Embeddings that agree within people and not between are all verified; random ones hardly."""
    people = tuple(f"{number // 2}" for number in range(80))
    perfect = torch.nn.functional.one_hot(torch.arange(80) // 2).float()
    assert verification(perfect, people) == {"tar_at_far_0.01": 1.0, "tar_at_far_0.001": 1.0}
    torch.manual_seed(0)
    assert verification(torch.nn.functional.normalize(torch.randn(80, 64)), people)["tar_at_far_0.01"] < 0.2


def command(name: str, faces: Path, models: Path, folder: Path, *more: str) -> Result:
    places = ["--faces", str(faces), "--models", str(models), "--out", str(folder / "out"), "--run", str(folder)]
    return run_command(app, [name, *places, *more])


@pytest.mark.rotating("training")
@pytest.mark.usefixtures("small_batches")
def test_commands_make_loadable_weights(
    monkeypatch: pytest.MonkeyPatch, faces_folder: Path, models_folder: Path, tmp_path: Path
) -> None:
    """probe, universal, road, transfer and joint, one after the other, write the three files that a filter loads.

    The networks' ONNX, which devices and CPUs load, is written beside them, and is of the weights that came last.
    """
    chain = (("probe", ["--hard-steps", "1"]), ("universal", []), ("road", []), ("transfer", []), ("joint", []))
    for name, more in chain:
        result = command(name, faces_folder, models_folder, tmp_path, "--steps", "2", *more)
        assert result.exit_code == 0, result.output
    out = tmp_path / "out"
    assert sorted(file.name for file in out.iterdir()) == [
        "DIGEST",
        "SHA256SUMS",
        "probe.safetensors",
        "probe_gradient.onnx",
        "transfer.onnx",
        "transfer.safetensors",
        "universal.safetensors",
    ]
    monkeypatch.setattr("apf.filters.torch_filter.WEIGHTS_DIR", out)
    known, faces = Filter.load("standard"), torch.rand(1, 3, 112, 112)
    delta = known.perturbation(faces)
    assert 0 < delta.abs().max().item() <= 8 / 255
    light = LightProbe(out).embedding(faces[0].numpy())
    assert torch.from_numpy(light).sub(known.probe(faces)[0]).abs().max().item() < 1e-5
    gradient = torch.rand(1, 6, 112, 112)
    transferred = RuntimeNetwork.load(out / TRANSFER_ONNX)(gradient=gradient.numpy())["perturbation"]
    with torch.no_grad():
        assert torch.from_numpy(transferred).sub(known.network(gradient)).abs().max().item() < 1e-4


@pytest.mark.rotating("training")
@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("hard_steps", [0, 2])
def test_probe_command_runs_both_courses(
    faces_folder: Path, models_folder: Path, shop: Workshop, targets: Targets, tmp_path: Path, hard_steps: int
) -> None:
    """The probe that is written went through `--steps` of the first course and `--hard-steps` of the second.

    Its verification accuracy is told as JSON, and each course leaves a checkpoint of its own.
    """
    options = ["--steps", "2", "--hard-steps", str(hard_steps), "--seed", "3"]
    result = command("probe", faces_folder, models_folder, tmp_path, *options)
    assert result.exit_code == 0, result.output
    rates = json.loads(result.stdout)["probe"]
    assert set(rates) == {"tar_at_far_0.01", "tar_at_far_0.001"} and all(0 <= rate <= 1 for rate in rates.values())
    expected = probe.distil(shop.faces, targets, budget=Budget(steps=2), seed=3, run=tmp_path / "again")
    budget = Budget(steps=hard_steps)
    expected = probe.harden(expected, shop.faces, targets, budget=budget, seed=3, run=tmp_path / "again")
    assert equal(load_file(tmp_path / "out" / "probe.safetensors"), expected.state_dict())
    assert torch.load(tmp_path / "probe.pt")["done"] == 2
    assert torch.load(tmp_path / "probe-hard.pt")["done"] == hard_steps


def test_all_runs_the_three_in_order(
    monkeypatch: pytest.MonkeyPatch, faces_folder: Path, models_folder: Path, tmp_path: Path
) -> None:
    """`all` is probe, universal, road, transfer and joint, each as long as by itself, with one seed."""
    ran: list[tuple[str, int, int]] = []

    def standing_in(name: str, found: Callable[[], Any]) -> None:
        def training(*_: Any, budget: Budget, seed: int, **__: Any) -> Any:
            ran.append((name, budget.steps, seed))
            return found()

        monkeypatch.setattr(f"apf.research.train.__main__.{name}", training)

    standing_in("distil", fresh_probe)
    standing_in("harden", fresh_probe)
    standing_in("optimise", fresh_universal)
    standing_in("follow", fresh_probe)
    standing_in("learn", lambda: TransferNet(CHANNELS))
    standing_in("tune", lambda: None)
    result = command("all", faces_folder, models_folder, tmp_path, "--seed", "4")
    assert result.exit_code == 0, result.output
    assert [name for name, _, _ in ran] == ["distil", "harden", "optimise", "follow", "learn", "tune"]
    assert all(steps > 100 and seed == 4 for _, steps, seed in ran)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 3


@pytest.mark.parametrize("name", ["probe", "universal", "transfer"])
def test_missing_faces_end_the_command(models_folder: Path, tmp_path: Path, name: str) -> None:
    """Without faces a command ends with status 2 and says what to give."""
    arguments = [name, "--faces", str(tmp_path / "none"), "--models", str(models_folder)]
    result = run_command(app, arguments)
    assert result.exit_code == 2
    assert "no faces at" in result.output and "--faces" in result.output


def test_missing_models_end_the_command(faces_folder: Path, tmp_path: Path) -> None:
    """Without recognisers a command ends with status 2 and says what to give."""
    result = command("probe", faces_folder, tmp_path / "none", tmp_path)
    assert result.exit_code == 2
    assert "no list of recognisers" in result.output and "--models" in result.output


def test_transfer_needs_a_probe(faces_folder: Path, models_folder: Path, tmp_path: Path) -> None:
    """Training the transfer network without a probe says which command makes one."""
    result = command("transfer", faces_folder, models_folder, tmp_path)
    assert result.exit_code == 2
    assert "apf.research.train probe" in result.output


def test_damaged_weights_end_the_command(faces_folder: Path, models_folder: Path, tmp_path: Path) -> None:
    """A probe file of another version ends the command with status 2, not with a stack of calls."""
    (tmp_path / "out").mkdir()
    save_file(TransferNet(CHANNELS).state_dict(), tmp_path / "out" / "probe.safetensors")
    result = command("transfer", faces_folder, models_folder, tmp_path)
    assert result.exit_code == 2 and "probe.safetensors" in result.output
    (tmp_path / "out" / "probe.safetensors").write_bytes(b"no weights")
    assert command("transfer", faces_folder, models_folder, tmp_path).exit_code == 2


@pytest.mark.parametrize("kind", ["empty", "size", "no tar", "no picture", "nobody"])
def test_unfit_faces(tmp_path: Path, kind: str) -> None:
    """No pictures, another size, no tar, no picture, nobody's picture: a DataError that names the cure or the file."""
    path = tmp_path / "faces"
    buffer = io.BytesIO()
    Image.new("RGB", (100, 112)).save(buffer, "PNG")
    if kind == "no tar":
        path.write_bytes(b"x" * 2000)
    else:
        (path / "somebody").mkdir(parents=True)
    if kind in ("size", "no picture"):
        (path / "somebody" / "0.png").write_bytes(buffer.getvalue() if kind == "size" else b"no picture")
    if kind == "nobody":
        (path / "0.png").write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match=r"expected PERSON|100x112|no tar file|0\.png|in no person's folder"):
        load_faces(path)


def test_faces_are_batches_of_floats(faces_folder: Path) -> None:
    """A batch is float32 in [0, 1], the 8-bit pixels over 255."""
    faces = load_faces(faces_folder)
    assert isinstance(faces, Faces) and faces.pixels.dtype == torch.uint8
    batch = faces.batch(torch.tensor([3, 0]))
    assert batch.dtype == torch.float32
    assert torch.equal((batch * 255).round().to(torch.uint8), faces.pixels[[3, 0]])


def test_saved_weights_are_what_was_trained(
    faces_folder: Path, models_folder: Path, tmp_path: Path, small_batches: None, shop: Workshop
) -> None:
    """The file that a command writes holds the weights that the function returns for the same seed."""
    command("universal", faces_folder, models_folder, tmp_path, "--steps", "2", "--seed", "3")
    held = load_file(tmp_path / "out" / "universal.safetensors")
    assert equal(held, optimised(shop, Budget(steps=2), tmp_path / "again", 3))


def test_projection_needs_enough_of_both() -> None:
    """Fewer faces, or a smaller embedding, than a block has dimensions cannot fill the block: said before training."""
    for shape in ((BLOCK_DIM - 1, 80), (100, BLOCK_DIM - 1)):
        with pytest.raises(DataError, match=f"{shape[0]} faces, embeddings of {shape[1]}: at least {BLOCK_DIM}"):
            Projection.of(torch.rand(shape))


def test_probe_needs_as_many_teachers_as_blocks() -> None:
    """One teacher too few is refused, with the numbers and the option to change."""
    fake = {name: Recogniser(torch.nn.Identity()) for name in TEACHERS[1:]}
    with pytest.raises(
        DataError, match=f"{len(fake)} recognisers of role 'train', the probe imitates {BLOCKS}.*--models"
    ):
        Targets.of(fake, {name: torch.rand(80, 80) for name in fake})


def test_a_run_keeps_its_number_of_steps(tmp_path: Path) -> None:
    """A learning rate that follows the number of steps cannot go on with another: the error names both numbers."""
    counted: list[int] = []

    def step(number: int, _: torch.Generator) -> dict[str, float]:
        counted.append(number)
        return {}

    def run(steps: int, name: str, state: dict[str, loop.Stateful]) -> None:
        loop.train(step, state, budget=Budget(steps=steps), seed=0, run=tmp_path, name=name)

    followed: dict[str, loop.Stateful] = {"schedule": torch.nn.Identity()}
    run(2, "followed", followed)
    with pytest.raises(DataError, match="begun with --steps 2, not 3"):
        run(3, "followed", followed)
    assert counted == [0, 1]
    run(2, "constant", {})
    run(3, "constant", {})
    assert counted == [0, 1, 0, 1, 2]
