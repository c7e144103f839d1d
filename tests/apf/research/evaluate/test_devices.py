"""The comparison of two devices or precisions, as a command."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from apf.filters.torch_filter import Filter
from apf.research.evaluate import devices
from apf.research.evaluate.devices import Difference, app, differences
from tests.apf.research.evaluate import world


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.people(tmp_path_factory.mktemp("given") / "faces", world.PEOPLE[:3])


def run(faces: Path, *options: str) -> tuple[int, str]:
    ended = CliRunner().invoke(app, ["--faces", str(faces), "--most", "3", *options])
    return ended.exit_code, ended.output


@pytest.mark.rotating("evaluation")
@pytest.mark.parametrize("precision", ["auto", "bfloat16"])
def test_what_agrees(faces: Path, precision: str) -> None:
    """A line for each number of faces, and success."""
    code, output = run(faces, "--device", "cpu", "--precision", precision)
    assert code == 0, output
    header, one = output.strip().splitlines()
    assert header.startswith("faces | cosine") and one.startswith("1 | ")


def test_what_does_not_agree(monkeypatch: pytest.MonkeyPatch, faces: Path) -> None:
    """Another perturbation than the CPU's ends with 1."""
    monkeypatch.setattr(devices, "differences", lambda faces, *_: [Difference.of(faces, -faces, faces)])
    assert run(faces, "--device", "cpu")[0] == 1


@pytest.mark.parametrize("options", [("--device", "cuda"), ("--precision", "half", "--device", "cpu")])
def test_what_cannot_be_measured(monkeypatch: pytest.MonkeyPatch, faces: Path, options: tuple[str, ...]) -> None:
    """Without a GPU, or for an unknown precision, it ends with 2 and says why."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, output = run(faces, *options)
    assert code == 2
    assert "needs a CUDA device" in output or "no precision named 'half'" in output


def test_figures(crops: Tensor) -> None:
    """Equal perturbations differ by nothing; one that is a level off is, everywhere, another byte."""
    photos = torch.full_like(crops[:1], 100 / 255)
    delta = torch.full_like(photos, 4 / 255)
    same, other = Difference.of(photos, delta, delta), Difference.of(photos, delta + 1 / 255, delta)
    assert same.mean_levels == same.other_bytes_percent == 0
    assert same.cosine == pytest.approx(1, abs=1e-3)
    assert other.mean_levels == pytest.approx(1, rel=1e-3) and other.other_bytes_percent == 100
    assert same.is_small and not other.is_small


def test_as_many_counts_as_there_are_faces(standard: Filter, crops: Tensor) -> None:
    """Counts beyond the faces given are left out."""
    found = differences(crops[:2], standard, standard, (1, 2, 8))
    assert [one.faces for one in found] == [1, 2] and all(one.mean_levels == 0 for one in found)
