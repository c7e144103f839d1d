"""The audit's verdicts, from answers as pip-audit gives them; and one real run, whatever the network says."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "infra" / "audit.py"
CLEAN = {"name": "pillow", "version": "12.0", "vulns": []}
BAD = {
    "name": "pillow",
    "version": "9.0",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["9.1"], "aliases": ["CVE-2022-1"], "description": "overflow"}],
}
SKIPPED = {"name": "kombu", "skip_reason": "Dependency not found on PyPI and could not be audited: kombu (5.6)"}


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["audit"] = module
    spec.loader.exec_module(module)
    return module


def answer(*packages: object) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


@pytest.mark.parametrize(
    ("answers", "status", "said"),
    [
        ([answer(CLEAN)], 0, "1 packages, none with a known vulnerability"),
        ([answer(BAD, CLEAN)], 1, "pillow 9.0: PYSEC-1, fixed in 9.1"),
        ([answer(CLEAN, SKIPPED), ""], 0, "1 could NOT be looked up"),
        ([answer(SKIPPED), answer(BAD)], 1, "PYSEC-1"),
        ([answer(SKIPPED), "Traceback: no such host"], 0, "NOT DONE"),
        (["[]", "{}"], 0, "NOT DONE"),
    ],
)
def test_verdicts(
    audit: ModuleType, capsys: pytest.CaptureFixture[str], answers: list[str], status: int, said: str
) -> None:
    assert audit.report([audit.verdict(text) for text in answers]) == status
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("name", ["PYSEC-1", "CVE-2022-1"])
def test_accepted_ones_are_left_out(audit: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(audit.ACCEPTED, name, "the format is never read")
    assert audit.verdict(answer(BAD)).found == ()


def test_it_always_says_how_it_ended() -> None:
    run = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode in (0, 1), run.stderr
    assert run.stdout.startswith("audit: ")
