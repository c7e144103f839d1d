"""`python -m apf.research.evaluate` from end to end, on made-up people and recognisers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from apf.filters.torch_filter import CHUNK, Filter
from apf.recipe import Recipe
from apf.research.evaluate import bench, methods
from apf.research.evaluate.__main__ import app
from apf.research.evaluate.bench import Bench, timed_faces
from apf.research.evaluate.report import Report
from apf.research.evaluate.whole_photos import protectors, sizes
from apf.stages.constants import CHANNELS
from apf.stages.probe import Probe
from apf.stages.transfer_network import TransferNet
from tests.apf.research.evaluate import world
from tests.apf.stages.test_models import linear_network


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with people, models and one more recogniser."""
    folder = tmp_path_factory.mktemp("given")
    world.people(folder / "faces")
    world.models(folder / "models")
    (folder / "own.onnx").write_bytes(linear_network(112, dim=9, seed=9))
    return folder


@pytest.fixture(autouse=True)
def _tiny_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The filter with random weights: figures do not matter here."""

    def load(recipe: Recipe, device: str = "cpu") -> Filter:
        torch.manual_seed(0)
        stepless = recipe.model_copy(update={"steps": 0, "warp_percent": 0.0})
        return Filter(stepless, device, Probe(), TransferNet(CHANNELS), torch.randn(3, 112, 112))

    monkeypatch.setattr(Filter, "load", load)
    for module in (bench, methods, protectors):
        monkeypatch.setattr(module, "load_filter", load)


def run(given: Path, out: Path, *options: object, level: str = "crops") -> Result:
    paths = ("--faces", given / "faces", "--models", given / "models", "--run", out / "run")
    return CliRunner().invoke(app, [level, *map(str, paths), *map(str, options)])


@pytest.mark.rotating("evaluation")
def test_end_to_end(given: Path, tmp_path: Path) -> None:
    """Rows, JSON, Markdown and plots come out, for listed recognisers and for one's own file; a second run agrees."""
    names = ("none", "noise", "MI-DI-10", "ours: universal", "ours: standard")
    options = [part for name in names for part in ("--method", name)]
    options += ["--recogniser", str(given / "own.onnx"), "--timing-faces", "2", "--timing-runs", "1", "--people", "3"]
    options += ["--json", str(tmp_path / "out.json"), "--markdown", str(tmp_path / "out.md")]
    options += ["--plots", str(tmp_path / "plots"), "--all-people"]
    result = run(given, tmp_path, *options)
    assert result.exit_code == 0, result.output
    found = Report.model_validate_json((tmp_path / "out.json").read_text())
    assert [row.method for row in found.crops] == list(names)
    assert (found.people, found.gallery) == (3, len(world.PEOPLE))
    assert {one.name: one.trained_on for one in found.recognisers} == {
        "known a": True, "known b": True, "stranger": False, "own": False,
    }  # fmt: skip
    assert all((row.timing is None) == (row.method == "none") for row in found.crops)
    assert all(name in (tmp_path / "out.md").read_text() for name in names)
    assert len(list((tmp_path / "plots").glob("*.png"))) == 8
    assert "half size" in result.output
    again = run(given, tmp_path, *options, "--no-timing")
    assert again.exit_code == 0, again.output
    second = Report.model_validate_json((tmp_path / "out.json").read_text())
    assert [row.conditions for row in second.crops] == [row.conditions for row in found.crops]
    assert all(row.timing is None for row in second.crops)


@pytest.mark.rotating("evaluation")
def test_only_held_out_people(given: Path, tmp_path: Path) -> None:
    """Without --all-people the gallery holds those alone whom training keeps apart."""
    result = run(given, tmp_path, "--method", "none", "--json", tmp_path / "out.json")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out.json").read_text())
    assert 0 < report["gallery"] < len(world.PEOPLE) / 2
    assert report["people"] == report["gallery"]


@pytest.mark.rotating("evaluation")
def test_kinds(given: Path, tmp_path: Path) -> None:
    """The level `kinds` fills the table by kind of photo, and computes no rows of crops."""
    result = run(given, tmp_path, "--people", 2, "--json", tmp_path / "out.json", level="kinds")
    assert result.exit_code == 0, result.output
    found = Report.model_validate_json((tmp_path / "out.json").read_text())
    assert found.kinds and not found.crops and not found.photos
    assert "Kinds of photo" in result.output


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, portrait: np.ndarray) -> Path:
    """Ann with two photos of one face, Bob with two."""
    folder = tmp_path_factory.mktemp("photos")
    for index, person in enumerate(("ann", "ann", "bob", "bob")):
        (folder / person).mkdir(exist_ok=True)
        shift = 8 * index
        Image.fromarray(portrait[shift : 300 + shift, 60:400]).save(folder / person / f"{index}.png")
    return folder


@pytest.mark.rotating("evaluation")
def test_whole_photos(given: Path, photos: Path, tmp_path: Path) -> None:
    """The level `photos` has a row for nothing, each recipe, and the rivals that are asked for, which are marked."""
    names = ("none", "MI-DI-40", "ours: standard", "ours: fast")
    options = [part for name in names for part in ("--method", name)]
    options += ["--photos", str(photos), "--all-people", "--every", "2", "--sheets", str(tmp_path / "sheets")]
    options += ["--json", str(tmp_path / "out.json"), "--markdown", str(tmp_path / "out.md")]
    result = run(given, tmp_path, *options, level="photos")
    assert result.exit_code == 0, result.output
    found = Report.model_validate_json((tmp_path / "out.json").read_text())
    assert [row.method for row in found.photos] == list(names) and not found.crops and not found.sizes
    assert {row.method: row.guides for row in found.photos}["MI-DI-40"] == ("known a", "known b")
    for row in found.photos:
        assert (row.photos, row.conditions["published"].pairs, row.conditions["published"].lost) == (2, 2, 0)
        assert "other detector" not in row.conditions
    assert "known a" in (tmp_path / "out.md").read_text() and "(guide)" in (tmp_path / "out.md").read_text()
    assert len(list((tmp_path / "sheets").glob("*/contact.png"))) == len(names)


@pytest.mark.rotating("evaluation")
def test_whole_photos_by_size(given: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The level `sizes` fills the table of sizes alone."""
    monkeypatch.setattr(bench, "size_rows", lambda photos, ready: sizes.size_rows(photos, ready, (60,)))
    options = ("--photos", photos, "--all-people", "--photos-limit", 1, "--json", tmp_path / "out.json")
    result = run(given, tmp_path, *options, level="sizes")
    assert result.exit_code == 0, result.output
    found = Report.model_validate_json((tmp_path / "out.json").read_text())
    assert [(row.face_px, row.photos, row.lost) for row in found.sizes] == [(60, 1, 0)] and not found.photos


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [("--method", "magic", "use one of none, ours: light"), ("--other-detector", "nowhere", "nowhere")],
)
def test_bad_input_of_whole_photos(
    given: Path, photos: Path, tmp_path: Path, option: str, value: str, says: str
) -> None:
    """A way to protect or a detector that there is not ends the command with status 2 and a sentence."""
    result = run(given, tmp_path, "--photos", photos, "--all-people", option, value, level="photos")
    assert result.exit_code == 2 and says in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--faces", "nowhere"], "no faces at nowhere"),
        (["--models", "nowhere"], "no list of recognisers at nowhere"),
        (["--method", "magic"], "no method named 'magic'"),
        (["--recogniser", "nowhere.onnx"], "recogniser nowhere.onnx cannot be read"),
        (["--recipe", "magic"], "no recipe named 'magic'"),
        (["--server", "magic"], "no train recogniser named 'magic'"),
        (["--device", "abacus"], "no device 'abacus' here"),
        (["--people", "0"], "Invalid value for '--people'"),
    ],
)
def test_bad_input(given: Path, tmp_path: Path, options: list[str], says: str) -> None:
    """What cannot be measured ends the command with status 2 and one sentence that names the value."""
    result = run(given, tmp_path, *options)
    assert result.exit_code == 2
    assert says in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_nobody_kept_apart(given: Path, tmp_path: Path) -> None:
    """People of whom training keeps nobody apart need --all-people, and the message says so."""
    folder = tmp_path / "few"
    world.people(folder, ["person 0", "person 1"])
    result = run(given, tmp_path, "--faces", folder, "--method", "none")
    assert (result.exit_code, "add --all-people" in result.output) == (2, True)
    assert run(given, tmp_path, "--faces", folder, "--method", "none", "--all-people").exit_code == 0


def test_nobody_to_learn_from(given: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where everybody is measured, the rivals that learn from others are left out, each with a warning."""
    options = ("--all-people", "--method", "none", "--no-timing", "--json", tmp_path / "out.json")
    assert run(given, tmp_path, *options, "--people", 1).exit_code == 0
    assert not caplog.messages
    assert run(given, tmp_path, *options, "--people", 1000).exit_code == 0
    assert {text.split("'")[1] for text in caplog.messages} == {"released APF", "Fawkes-like"}


def test_unknown_level(given: Path, tmp_path: Path) -> None:
    """A level that there is not is refused with those that there are."""
    result = run(given, tmp_path, level="everything")
    assert result.exit_code == 2
    assert "crops" in result.output


@pytest.mark.parametrize("level", ["photos", "sizes", "all"])
def test_missing_photos(monkeypatch: pytest.MonkeyPatch, given: Path, tmp_path: Path, level: str) -> None:
    """Whole photos need a folder of photos, and that is said before anything is measured."""
    monkeypatch.setattr(Bench, "crops", lambda _: pytest.fail("measured for hours before it was said"))
    result = run(given, tmp_path, "--photos", tmp_path / "nowhere", level=level)
    assert result.exit_code == 2
    assert "--photos" in result.output


def test_gpu_times_are_of_whole_chunks() -> None:
    """On a GPU the filter works on so many faces at once that fewer would pay for the padding."""
    assert timed_faces(8, "cpu") == 8
    assert timed_faces(8, "cuda:0") == CHUNK["cuda"] <= timed_faces(100, "cuda")
