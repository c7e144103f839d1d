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
from producer.server.services import make_services
from tests.producer.server.platform import Platform


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


@pytest.mark.parametrize(("asked", "waited"), [(60, 8), (3, 3)])
def test_a_server_waits_less_for_a_store_than_workers_do(place: Platform, asked: float, waited: float) -> None:
    """Whoever asks over HTTP would give up first; less than that is the operator's to say."""
    settings = place.world.settings.model_copy(update={"s3_read_timeout_s": asked})
    assert make_services(settings, place.settings()).settings.s3.read_timeout_s == waited
