"""Wait for what another process or thread is to bring about."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest


def until(
    happened: Callable[[], object], within_s: float, what: str, log: Path | None = None, *, every_s: float = 0.1
) -> None:
    """Wait for something, or fail with its name and the end of the log.

    `within_s` is for a machine that is busy with other tests: what is quick there ends the wait at once.
    """
    deadline = time.monotonic() + within_s
    while not happened():
        if time.monotonic() > deadline:
            text = log.read_text()[-4000:] if log and log.exists() else ""
            pytest.fail(f"not within {within_s} s: {what}\n{text}")
        time.sleep(every_s)
