"""Readiness while the store hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from producer.server import readiness
from producer.server.readiness import Readiness


def test_a_store_that_hangs_holds_up_no_probe_and_one_thread_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes come without a token, and are answered in time; once the store answers again, so is told."""
    monkeypatch.setattr(readiness, "ANSWER_WITHIN_S", 0.2)
    monkeypatch.setattr(readiness, "GOOD_FOR_S", 0.0)
    asked, goes_on = [], threading.Event()

    def listing(prefix: str) -> Iterator[Any]:
        asked.append(prefix)
        goes_on.wait(30)
        return iter(())

    ready = Readiness(cast(Any, SimpleNamespace(answers=lambda: True)), cast(Any, SimpleNamespace(list=listing)))
    started = time.monotonic()
    for _ in range(3):
        assert ready.problems() == {"store": "the ledger's store does not answer in time"}
    assert time.monotonic() - started < 10 and len(asked) == 1
    goes_on.set()
    deadline = time.monotonic() + 10
    while ready.problems():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert ready.problems() == {}
