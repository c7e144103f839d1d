"""Training on a made-up world: tiny faces, tiny teachers. Reproducible, resumable, and never on what is kept apart."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
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

from apf.errors import WeightsError
from apf.filter import Filter
from apf.gradient import CHANNELS
from apf.models.probe import Probe
from apf.models.unet import TransferNet
from apf.train import loop, probe, score, teachers, transfer, universal
from apf.train.__main__ import Workshop, app
from apf.train.data import DataError, Faces, is_held_out, load_faces
from apf.train.loop import Budget
from apf.train.probe import verification

#: People enough that some are kept apart, with two photos each.
PEOPLE = [f"person {number}" for number in range(24)]
#: As many teachers as the probe has blocks, and the slow one.
TEACHERS = ("a", "b", "c", "d", teachers.NOT_DISTILLED)
UNSEEN = "unseen"
SEED_STEPS = 4

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


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, size in ((probe, 8), (universal, 2), (transfer, 2)):
        monkeypatch.setattr(module, "BATCH", size)


def distilled(shop: Workshop, budget: Budget, run: Path, seed: int) -> dict[str, Tensor]:
    return probe.distil(shop.faces, shop.ensemble.clean, budget=budget, seed=seed, run=run).state_dict()


def optimised(shop: Workshop, budget: Budget, run: Path, seed: int) -> dict[str, Tensor]:
    return universal.optimise(shop.faces, shop.ensemble, budget=budget, seed=seed, run=run).state_dict()


def learned(shop: Workshop, budget: Budget, run: Path, seed: int) -> dict[str, Tensor]:
    torch.manual_seed(5)
    uap, known = universal.UniversalPerturbation(), Probe().eval().requires_grad_(False)
    network = transfer.learn(shop.faces, shop.ensemble, known, uap, budget=budget, seed=seed, run=run)
    return {**network.state_dict(), "uap": uap.perturbation.detach()}


Training = Callable[[Workshop, Budget, Path, int], dict[str, Tensor]]
TRAININGS = pytest.mark.parametrize("training", [distilled, optimised, learned], ids=["probe", "universal", "transfer"])


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@TRAININGS
@pytest.mark.usefixtures("small_batches")
def test_a_seed_is_a_run(shop: Workshop, tmp_path: Path, training: Training) -> None:
    """The same seed gives the same weights to the bit, another seed others."""
    budget = Budget(steps=SEED_STEPS)
    first = training(shop, budget, tmp_path / "1", 0)
    torch.rand(3)
    assert equal(first, training(shop, budget, tmp_path / "2", 0))
    assert not equal(first, training(shop, budget, tmp_path / "3", 1))


@TRAININGS
@pytest.mark.usefixtures("small_batches")
def test_a_broken_off_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, shop: Workshop, tmp_path: Path, training: Training
) -> None:
    """A run broken off after two checkpointed steps and begun again ends with the weights of an unbroken one."""
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
    """A run whose time is up stops before its steps are done, and leaves a checkpoint."""
    parameter = torch.nn.Linear(1, 1)
    done = loop.train(
        lambda _, generator: {}, {"it": parameter}, budget=Budget(steps=9, minutes=0), seed=0, run=tmp_path, name="it"
    )
    assert done == 0 and (tmp_path / "it.pt").exists()


def test_log_holds_means(tmp_path: Path) -> None:
    """Every twentieth step, the means since the last are appended to a CSV with one header."""
    budget = Budget(steps=2 * loop.LOG_EVERY_STEPS)
    state: dict[str, loop.Stateful] = {"it": torch.nn.Linear(1, 1)}
    loop.train(lambda n, _: {"number": float(n)}, state, budget=budget, seed=0, run=tmp_path, name="it")
    header, first, second = (tmp_path / "it.csv").read_text().splitlines()
    assert header == "step,seconds,number"
    assert first.startswith("20,") and first.endswith(",9.5")
    assert second.startswith("40,") and second.endswith(",29.5")


@pytest.mark.usefixtures("small_batches")
def test_probe_learns(shop: Workshop, tmp_path: Path) -> None:
    """Thirty steps bring the probe nearer to its teachers than a fresh one."""
    wanted = probe.targets(shop.ensemble.clean)
    faces = shop.faces.batch(torch.arange(len(shop.faces)))
    torch.manual_seed(0)
    fresh = Probe().eval()
    found = probe.distil(shop.faces, shop.ensemble.clean, budget=Budget(steps=30), seed=0, run=tmp_path)
    with torch.no_grad():
        before, after = ((it.blocks(faces) * wanted).sum(-1).mean() for it in (fresh, found))
    assert after > before + 0.05


def test_validate_models_are_never_opened(shop: Workshop, models_folder: Path) -> None:
    """Training knows the teachers of role `train` alone; a folder of others is an error, not a fallback."""
    assert sorted(shop.ensemble.teachers) == sorted(TEACHERS)
    assert UNSEEN not in shop.ensemble.clean
    assert teachers.NOT_DISTILLED not in shop.ensemble.clean


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
    assert torch.equal(teachers.embeddings({"a": NotAsked()}, shop.faces, tmp_path)["a"], first)  # type: ignore[dict-item]
    assert len(teachers.embeddings(some, shop.held_out, tmp_path)["a"]) == len(shop.held_out)


class NotAsked(torch.nn.Module):
    def forward(self, faces: Tensor) -> Tensor:
        raise AssertionError("embedded again in spite of the cache")


def test_verification_counts_pairs() -> None:
    """Embeddings that agree within people and not between are all verified; random ones hardly."""
    people = tuple(f"{number // 2}" for number in range(80))
    perfect = torch.nn.functional.one_hot(torch.arange(80) // 2).float()
    assert verification(perfect, people) == {"tar_at_far_0.01": 1.0, "tar_at_far_0.001": 1.0}
    torch.manual_seed(0)
    assert verification(torch.nn.functional.normalize(torch.randn(80, 64)), people)["tar_at_far_0.01"] < 0.2


def test_score_tells_protection(shop: Workshop, models_folder: Path, tmp_path: Path) -> None:
    """The score has a row a method; clean photos are matched, and rates are percentages for every recogniser."""
    index = json.loads((models_folder / "models.json").read_text())
    data = teacher(9)
    index = {"a": index["a"], UNSEEN: {**index[UNSEEN], "sha256": hashlib.sha256(data).hexdigest()}}
    (tmp_path / "a.onnx").write_bytes((models_folder / "a.onnx").read_bytes())
    (tmp_path / f"{UNSEEN}.onnx").write_bytes(data)
    (tmp_path / "models.json").write_text(json.dumps(index))
    found = score.score(shop.held_out, tmp_path, score.Settings(people=2))
    rows: Any = found["rows"]
    assert [row["method"] for row in rows] == ["none", "noise", *score.VARIANTS]
    for row in rows:
        for kind in ("protection", "protection_jpeg75"):
            assert set(row[kind]) == {"a", UNSEEN}
            assert all(0 <= rate <= 100 for rates in row[kind].values() for rate in rates)
    assert rows[0]["protection"]["a"] == [0.0, 0.0], "clean photos of one person no longer match"
    assert rows[0]["psnr_db"] == 99.0 and 25 < rows[-1]["psnr_db"] < 45
    table = score.table(found)
    assert all(word in table for word in (*score.VARIANTS, "none", "noise", UNSEEN))


def command(name: str, faces: Path, models: Path, folder: Path, *more: str) -> Result:
    places = ["--faces", str(faces), "--models", str(models), "--out", str(folder / "out"), "--run", str(folder)]
    return run_command(app, [name, *places, *more])


@pytest.mark.usefixtures("small_batches")
def test_commands_make_loadable_weights(
    monkeypatch: pytest.MonkeyPatch, faces_folder: Path, models_folder: Path, tmp_path: Path
) -> None:
    """probe, universal and transfer, one after the other, write the three files that a filter loads."""
    for name in ("probe", "universal", "transfer"):
        result = command(name, faces_folder, models_folder, tmp_path, "--steps", "2")
        assert result.exit_code == 0, result.output
    out = tmp_path / "out"
    assert sorted(file.name for file in out.iterdir()) == [
        "probe.safetensors",
        "transfer.safetensors",
        "universal.safetensors",
    ]
    monkeypatch.setattr("apf.filter.WEIGHTS_DIR", out)
    delta = Filter.load("standard").perturbation(torch.rand(1, 3, 112, 112))
    assert 0 < delta.abs().max().item() <= 8 / 255


@pytest.mark.parametrize("name", ["probe", "universal", "transfer", "score"])
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
    assert "apf.train probe" in result.output


def test_damaged_weights_end_the_command(faces_folder: Path, models_folder: Path, tmp_path: Path) -> None:
    """A probe file of another version ends the command with status 2, not with a stack of calls."""
    (tmp_path / "out").mkdir()
    save_file(TransferNet(CHANNELS).state_dict(), tmp_path / "out" / "probe.safetensors")
    result = command("transfer", faces_folder, models_folder, tmp_path)
    assert result.exit_code == 2 and "probe.safetensors" in result.output
    (tmp_path / "out" / "probe.safetensors").write_bytes(b"no weights")
    assert command("transfer", faces_folder, models_folder, tmp_path).exit_code == 2


def test_score_of_too_few_people(tmp_path: Path, models_folder: Path) -> None:
    """Faces among which nobody kept apart has two photos end the command with status 2."""
    (tmp_path / "faces" / "alone").mkdir(parents=True)
    Image.new("RGB", (112, 112)).save(tmp_path / "faces" / "alone" / "0.png")
    arguments = ["score", "--faces", str(tmp_path / "faces"), "--models", str(models_folder)]
    result = run_command(app, arguments)
    assert result.exit_code == 2 and "two photos" in result.output


@pytest.mark.parametrize("kind", ["empty", "size", "no tar", "no picture"])
def test_unfit_faces(tmp_path: Path, kind: str) -> None:
    """No pictures, another size, no tar file, no picture: a DataError that names the cure or the file."""
    path = tmp_path / "faces"
    buffer = io.BytesIO()
    Image.new("RGB", (100, 112)).save(buffer, "PNG")
    if kind == "no tar":
        path.write_bytes(b"x" * 2000)
    else:
        (path / "somebody").mkdir(parents=True)
    if kind in ("size", "no picture"):
        (path / "somebody" / "0.png").write_bytes(buffer.getvalue() if kind == "size" else b"no picture")
    with pytest.raises(DataError, match=r"expected PERSON|100x112|no tar file|0\.png"):
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
