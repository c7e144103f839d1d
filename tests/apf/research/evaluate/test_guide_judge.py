"""`python -m apf.research.evaluate.guide`: the quick judge of a guide, on made-up recognisers and one real face."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from apf.research.evaluate import guide
from apf.research.evaluate.bench import Bench, Settings
from apf.research.evaluate.guide import ASKED, judged, told
from tests.apf.research.evaluate import world


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, portrait: np.ndarray) -> Path:
    """A folder with faces, recognisers, and three photos of one person."""
    folder = tmp_path_factory.mktemp("given")
    world.people(folder / "faces")
    world.models(folder / "models")
    (folder / "photos" / "ann").mkdir(parents=True)
    for side in (300, 280, 260):
        photo = Image.fromarray(portrait).resize((side, side), Image.Resampling.BOX)
        photo.save(folder / "photos" / "ann" / f"{side}.png")
    return folder


def run(given: Path, out: Path, *arguments: object) -> Result:
    app = typer.Typer()
    app.command()(guide.main)
    paths = [part for name in ("faces", "photos", "models") for part in (f"--{name}", str(given / name))]
    return CliRunner().invoke(app, [*map(str, arguments), *paths, "--run", str(out)])


def test_it_tells_how_a_guide_hides_a_few_faces(given: Path, tmp_path: Path) -> None:
    """Every recogniser's rates and their mean, as published and after half size and JPEG, and what is seen."""
    result = run(given, tmp_path, "probe", "--steps", "1", "--count", "2")
    assert result.exit_code == 0, result.output
    head, *conditions, looks = result.stdout.strip().splitlines()
    assert head == "guides and teachers, left out: none"
    assert [line.split(":")[0] for line in conditions] == list(ASKED)
    for line in conditions:
        assert all(f"{name} " in line for name in ("known a", "known b", "stranger")) and "4 pairs" in line
    assert looks.startswith("CIEDE2000 ") and looks.endswith(" s a face")


def test_guides_are_left_out_of_their_own_verdict(given: Path, tmp_path: Path) -> None:
    """A recogniser that the steps climb on, first or beside, is named, and counts in no mean."""
    paths = {name: given / name for name in ("faces", "photos", "models")}
    bench = Bench(Settings(**paths, run=tmp_path))
    row = judged(bench, str(given / "models" / "known a.onnx"), ("probe",), steps=1, faces=2)
    assert (row.photos, row.guides) == (2, ("known a",))
    head, published, *_ = told(row).splitlines()
    assert head.endswith("left out: known a") and "known a" not in published and "known b" in published


def test_what_is_missing_is_told(given: Path, tmp_path: Path) -> None:
    """A guide that is not there ends the command with its reason, not a traceback."""
    result = run(given, tmp_path, tmp_path / "none.onnx")
    assert result.exit_code == 2 and "Traceback" not in result.stderr
    *_, last = result.stderr.strip().splitlines()
    assert last.startswith("apf.research.evaluate.guide: ") and "none.onnx" in last
