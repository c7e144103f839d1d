"""`apf protect --dry-run`, `apf forget` and `apf audit`, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from producer.cli import app
from workers.batches.create import BatchOptions, create_batch
from workers.config.settings import load_settings
from workers.ledger.audit import local_actor

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


def test_each_act_leaves_a_line(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of batches and of schedules: who, what, and of which; looking leaves none."""
    monkeypatch.setenv("APF_LEDGER_URL", str(album / "ledgers"))
    (album / "in" / "a.jpg").write_bytes(b"x" * 1000)
    source, out = str(album / "in"), str(album / "out")
    batch = create_batch(source, out, BatchOptions(recipe="light"), load_settings())[1].id
    acts = [
        ("pause", out, batch),
        ("cancel", out, batch),
        ("schedule", "add", "nightly", source, out, "--every", "1d", "--recipe", "light"),
        ("schedule", "change", "nightly", "--no-face", "skip"),
        ("schedule", "pause", "nightly"),
        ("schedule", "go-on", "nightly"),
        ("schedule", "change", "nightly", "--recipe", "standard", "--fraction", "0.1"),
        ("schedule", "rollback", "nightly"),
        ("schedule", "change", "nightly", "--recipe", "standard", "--fraction", "0.1"),
        ("schedule", "promote", "nightly"),
        ("schedule", "list"),
        ("status", out, batch),
        ("schedule", "remove", "nightly"),
    ]
    for act in acts:
        done = RUNNER.invoke(app, list(act))
        assert done.exit_code == 0, (act, done.output)
    lines = [json.loads(line) for line in RUNNER.invoke(app, ["audit", out, "--json"]).stdout.splitlines()]
    told = [(line["act"], line["batch"] or line["schedule"]) for line in lines]
    wanted = [(act[0], batch) for act in acts[:2]]
    wanted += [(f"schedule {act[1]}", "nightly") for act in acts[2:] if act[0] == "schedule" and act[1] != "list"]
    assert told == wanted
    assert {line["who"] for line in lines} == {local_actor()}
    assert "@" in local_actor()
