"""The `apf` command for tests: here, in the process of the tests, or in one of its own.

A process of its own loads torch and a filter anew, which takes longer than nearly all that it is started for. It is
meant where a test is about exit statuses as a shell sees them, signals, what is loaded, or what other processes share.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kombu.pools
from kombu.transport import memory
from typer.testing import CliRunner

from producer.cli import app
from tests.conftest import OWN_SETTINGS

APF = [sys.executable, "-m", "producer"]


def environment(**variables: str) -> dict[str, str]:
    """The tests' environment, with no other APF_ variable than these."""
    clean = {name: value for name, value in os.environ.items() if name in OWN_SETTINGS or not name.startswith("APF_")}
    return {**clean, **variables}


def apf(*args: str | Path, code: int | None = 0, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command in this process; it must end with `code`, unless that is None."""
    with _environment(environment(**variables)), _logged():
        # A process of its own has queues and connections of its own; Kombu tells those apart by place and user alone.
        memory.Channel.queues.clear()
        kombu.pools.reset()
        ended = CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False, prog_name="apf")
    assert code in (None, ended.exit_code), f"{ended.stdout}\n{ended.stderr}"
    return subprocess.CompletedProcess(args, ended.exit_code, ended.stdout, ended.stderr)


def apf_json(*args: str | Path, code: int | None = 0, **variables: str) -> Any:
    return json.loads(apf(*args, "--json", code=code, **variables).stdout)


def apf_process(*args: str | Path, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    command = [*APF, *map(str, args)]
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment(**variables), timeout=240
    )
    assert ended.returncode == code, f"{ended.stdout}\n{ended.stderr}"
    return ended


@contextmanager
def _environment(wanted: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class _ToStderr(logging.Handler):
    """Warnings as `producer.cli.main` has them written, to whatever stderr is by then."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


@contextmanager
def _logged() -> Iterator[None]:
    handler = _ToStderr(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
