"""`python -m tests.benchmarks.bench_start`: what starting costs, of the producer's commands and of a cold worker.

Each start is a fresh process; its processor seconds count, interpreter and all, which hardly depend on what else the
machine does. Beside them the libraries alone. The worker is a real `apf worker` on a real Redis, with a photo waiting.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.processes import APF, a_photo, await_that, processor_s, running, running_redis, unwind_when_ended
from tests.benchmarks.record import ROOT, record, table

LIBRARIES = (
    "import redis; from celery import Celery; from kombu import Queue; from pydantic_settings import BaseSettings"
)


@dataclass(frozen=True)
class Cost:
    """Of one start: seconds on the clock, and of all processors."""

    wall_s: float
    processor_s: float


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7, help="starts of each command; of a worker half as many")
    parser.add_argument("--no-worker", action="store_true", help="the commands alone")
    asked = parser.parse_args(arguments)
    unwind_when_ended()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        commands = producer_starts(folder, asked.runs)
        print(f"{table([row(what, costs) for what, costs in commands.items()])}\n")
        worker = [] if asked.no_worker else worker_starts(folder, (asked.runs + 1) // 2)
    figures: dict[str, object] = {"processor_s": medians(commands)}
    if worker:
        print(f"{table(worker_rows(worker))}\n")
        figures["worker"] = {mark: statistics.median(found[mark] for found in worker) for mark in worker[0]}
    record("start", figures)


def producer_starts(folder: Path, runs: int) -> dict[str, list[Cost]]:
    """Each command's starts, in turns: the machine's moods fall on all of them alike."""
    (folder / "src").mkdir()
    (folder / "src" / "a.jpg").write_bytes(b"no photo")
    with running_redis(folder / "redis-status") as redis:
        variables = {"APF_BROKER_URL": redis.url, "APF_ALLOWED_URLS": folder.as_uri()}
        asked = ("protect", str(folder / "src"), str(folder / "dst"), "--no-wait")
        start(["-m", "producer", *asked], variables)
        cases = {
            "python alone": ["-c", ""],
            "import apf": ["-c", "import apf"],
            "import typer": ["-c", "import typer"],
            "import producer.cli": ["-c", "import producer.cli"],
            "apf --help": ["-m", "producer", "--help"],
            "apf status, a batch in a folder": ["-m", "producer", "status", str(folder / "dst")],
            "the queue's libraries": ["-c", LIBRARIES],
            "from producer import Client": ["-c", "from producer import Client"],
            "apf protect --no-wait, one photo": ["-m", "producer", *asked],
        }
        found: dict[str, list[Cost]] = {what: [] for what in cases}
        for _ in range(runs):
            for what, command in cases.items():
                found[what].append(start(command, variables))
    return found


def start(arguments: Sequence[str], variables: Mapping[str, str]) -> Cost:
    """One Python from its start to its end; raises SystemExit where it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    said = process.stderr.read() if process.stderr else b""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"python {' '.join(arguments)} ended with {process.returncode}: {said.decode()}")
    return Cost(time.perf_counter() - started, usage.ru_utime + usage.ru_stime)


def worker_starts(folder: Path, runs: int) -> list[dict[str, float]]:
    """Of each cold worker: seconds from its start to each mark, and what its processes have computed by then."""
    found = []
    for number in range(runs):
        here = folder / f"worker-{number}"
        (here / "src").mkdir(parents=True)
        (here / "src" / "a.jpg").write_bytes(a_photo(number))
        with running_redis(here / "redis") as redis:
            found.append(worker_start(here, {"APF_BROKER_URL": redis.url, "APF_ALLOWED_URLS": folder.as_uri()}))
    return found


def worker_start(folder: Path, variables: Mapping[str, str]) -> dict[str, float]:
    """One cold worker, until the photo that waits for it is protected."""
    start(["-m", "producer", "protect", str(folder / "src"), str(folder / "dst"), "--no-wait"], variables)
    log, marks = folder / "worker.log", dict[str, float]()
    started = time.perf_counter()
    with running(APF, log, variables, "worker") as process:
        waits = {
            "ready": lambda: b" ready." in log.read_bytes(),
            "engine": lambda: b"engine for recipe" in log.read_bytes(),
            "first_photo": (folder / "dst" / "a.jpg").exists,
        }
        for mark, happened in waits.items():
            await_that(happened, 120, f"{mark}: {log.read_text() if log.exists() else ''}")
            marks[f"{mark}_s"] = time.perf_counter() - started
            marks[f"{mark}_processor_s"] = processor_s(process.pid)
    return marks | engine_parts(log.read_text())


def engine_parts(log: str) -> dict[str, float]:
    """What a worker's log says of the engine's loading, in seconds by part."""
    line = re.search(r"engine for recipe \S+ ready in ([\d.]+) s(.*)", log)
    if line is None:
        return {}
    parts = re.findall(r"(\w+) ([\d.]+)", line[2])
    return {"load_s": float(line[1]), **{f"load_{name}_s": float(seconds) for name, seconds in parts}}


def row(what: str, costs: Sequence[Cost]) -> dict[str, object]:
    spent = sorted(cost.processor_s for cost in costs)
    return {
        "start": what,
        "processor, s": statistics.median(spent),
        "from": spent[0],
        "to": spent[-1],
        "clock, s": statistics.median(cost.wall_s for cost in costs),
        "starts": len(costs),
    }


def worker_rows(found: Sequence[Mapping[str, float]]) -> list[dict[str, object]]:
    rows = []
    for name in found[0]:
        seconds = sorted(marks[name] for marks in found)
        rows.append(
            {"cold worker": name.removesuffix("_s").replace("_", " "), "s": statistics.median(seconds)}
            | {"from": seconds[0], "to": seconds[-1], "starts": len(found)}
        )
    return rows


def medians(commands: Mapping[str, Sequence[Cost]]) -> dict[str, float]:
    return {what: statistics.median(cost.processor_s for cost in costs) for what, costs in commands.items()}


if __name__ == "__main__":
    main()
