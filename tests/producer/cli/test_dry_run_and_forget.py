"""`apf protect --dry-run`, `apf forget` and `apf audit`, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from producer.cli import app

RUNNER = CliRunner()


@pytest.fixture
def album(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path


def test_a_dry_run_prints_and_leaves_nothing(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For people and as JSON, with prices of one's own; a price that is none is refused."""
    monkeypatch.setattr("producer.cli.estimate._looks_here", lambda *_: None)
    (album / "in" / "a.jpg").write_bytes(b"x" * 1000)
    command = ["protect", str(album / "in"), str(album / "out"), "--recipe", "light", "--dry-run"]
    said = RUNNER.invoke(app, command)
    assert said.exit_code == 0, said.output
    assert "1 photos: 0 have their output already, 1 to protect" in said.output
    assert "on 1 worker (" in said.output
    assert "nothing was written or sent" in said.output
    dear = RUNNER.invoke(app, [*command, "--json", "--price", "worker-hour=36000"])
    assert json.loads(dear.stdout)["computing_usd"] > 0.5
    assert RUNNER.invoke(app, [*command, "--price", "gold=1"]).exit_code == 2
    assert sorted(path.name for path in album.rglob("*")) == ["a.jpg", "in"]


def test_forget_asks_first(album: Path) -> None:
    """A no changes nothing; what is no key, no file and no moment is told."""
    out = album / "out"
    out.mkdir()
    refused = RUNNER.invoke(app, ["forget", str(out), "a.jpg"], input="n\n")
    assert refused.exit_code == 1
    assert list(out.iterdir()) == []
    assert RUNNER.invoke(app, ["forget", str(out), "a.jpg"], input="y\n").exit_code == 0
    assert RUNNER.invoke(app, ["forget", str(out), "--yes"]).exit_code == 2
    assert "cannot be read" in RUNNER.invoke(app, ["forget", str(out), "--from", str(album / "nix")]).output
    told = RUNNER.invoke(app, ["forget", str(out), "b.jpg", "--yes", "--json"])
    assert json.loads(told.stdout)["keys"] == 1
    assert "1 photos are no longer forgotten" in RUNNER.invoke(app, ["remember", str(out), "a.jpg", "c.jpg"]).output
    lines = RUNNER.invoke(app, ["audit", str(out), "--since", "1d"]).stdout.splitlines()
    assert [line.split("  ")[2] for line in lines] == ["forget", "forget", "remember"]
    assert RUNNER.invoke(app, ["audit", str(out), "--since", "2099-01-01"]).stdout == ""
    assert "is no moment" in RUNNER.invoke(app, ["audit", str(out), "--since", "soon"]).output
