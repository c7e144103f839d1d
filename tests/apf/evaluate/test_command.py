"""`python -m apf.evaluate` from end to end, on made-up people and recognisers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from apf.evaluate.__main__ import app
from apf.evaluate.bench import Bench, timed_faces
from apf.evaluate.report import Report
from apf.filter import CHUNK, Filter
from apf.models.probe import Probe
from apf.models.unet import TransferNet
from apf.recipe import Recipe
from apf.steps import CHANNELS
from tests.apf.evaluate import world
from tests.apf.test_models import linear_network


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
        return Filter(recipe, device, Probe(), TransferNet(CHANNELS), torch.randn(3, 112, 112))

    monkeypatch.setattr(Filter, "load", load)


def run(given: Path, out: Path, *options: object, level: str = "crops") -> Result:
    paths = ("--faces", given / "faces", "--models", given / "models", "--run", out / "run")
    return CliRunner().invoke(app, [level, *map(str, paths), *map(str, options)])


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
    assert len(list((tmp_path / "plots").glob("*.png"))) == 5
    assert "half size" in result.output
    again = run(given, tmp_path, *options, "--no-timing")
    assert again.exit_code == 0, again.output
    second = Report.model_validate_json((tmp_path / "out.json").read_text())
    assert [row.conditions for row in second.crops] == [row.conditions for row in found.crops]
    assert all(row.timing is None for row in second.crops)


def test_only_held_out_people(given: Path, tmp_path: Path) -> None:
    """Without --all-people the gallery holds those alone whom training keeps apart."""
    result = run(given, tmp_path, "--method", "none", "--json", tmp_path / "out.json")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out.json").read_text())
    assert 0 < report["gallery"] < len(world.PEOPLE) / 2
    assert report["people"] == report["gallery"]


def test_kinds(given: Path, tmp_path: Path) -> None:
    """The level `kinds` fills the table by kind of photo, and computes no rows of crops."""
    result = run(given, tmp_path, "--people", 2, "--json", tmp_path / "out.json", level="kinds")
    assert result.exit_code == 0, result.output
    found = Report.model_validate_json((tmp_path / "out.json").read_text())
    assert found.kinds and not found.crops and found.photos is None
    assert "Kinds of photo" in result.output


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


@pytest.mark.parametrize("level", ["photos", "all"])
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
