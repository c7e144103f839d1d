"""`apf protect` again and again in one process of its own, so that the worker inside has its models loaded.

Started as a program it reads a line `[source, destination]` for each run, and prints that run's JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.record import ROOT


class WarmWorker:
    """The process's other end. Close it."""

    def __init__(self, variables: Mapping[str, str], *options: str) -> None:
        """Start it, with options for `apf protect`."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.warm_worker", *options],
            cwd=ROOT, env={**os.environ, **variables}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def protect(self, source: Path, destination: Path) -> dict[str, Any]:
        """The run's JSON, with `command_s` and `cpu_s` of the whole command, decoders included."""
        used, started = self._cpu_s(), time.perf_counter()
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the process has no pipes")
        self._process.stdin.write(json.dumps([str(source), str(destination)]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"`apf protect` ended with status {self._process.wait()}")
        found: dict[str, Any] = json.loads(line)
        if found["failures"]:
            raise SystemExit(f"photos failed: {found['failures']}")
        return {**found, "command_s": time.perf_counter() - started, "cpu_s": self._cpu_s() - used}

    def close(self) -> None:
        with self._process:  # closes its pipes, by which it ends, and waits for that
            pass

    def _cpu_s(self) -> float:
        parent = psutil.Process(self._process.pid)
        times = [process.cpu_times() for process in (parent, *parent.children(recursive=True))]
        return sum(one.user + one.system for one in times)


def main() -> None:
    from producer.cli import app  # noqa: PLC0415  the other end needs none of it

    for line in sys.stdin:
        source, destination = json.loads(line)
        app(["protect", source, destination, "--json", *sys.argv[1:]], standalone_mode=False)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
