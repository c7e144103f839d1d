"""Status for many at once: read once, and held in bounded memory."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from apf.recipe import load_recipe
from producer.server.board import StatusBoard, state_of
from tests.memory_store import MemoryStore
from workers.core.records import Batch
from workers.ledger.batch_ledger import Ledger
from workers.status.batch_status import BatchMonitor

RECIPE = load_recipe("light")


def ledger_with(count: int) -> Ledger:
    ledger = Ledger(MemoryStore(f"memory://board-{count}"), "place")
    for number in range(count):
        ledger.write_batch(Batch(
            id=f"b{number}", source="memory://in", destination="memory://out", recipe=RECIPE, planned=True, shards=1,
            photos=1, created_at="2026-01-01T00:00:00+00:00",
        ))  # fmt: skip
    return ledger


def test_however_many_ask_it_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty threads that ask at the same time get one look at the ledger; after the span there is another."""
    looked: list[str] = []
    poll = BatchMonitor.poll

    def counted(self: BatchMonitor, **how: Any) -> Any:
        looked.append(self.batch_id)
        return poll(self, **how)

    monkeypatch.setattr(BatchMonitor, "poll", counted)
    ledger, board = ledger_with(1), StatusBoard(60.0)
    threads = [threading.Thread(target=board.summary, args=(ledger, "b0")) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert looked == ["b0"]
    assert state_of(board.summary(ledger, "b0")) == "running" and looked == ["b0"]
    board.forget(ledger, "b0")
    board.summary(ledger, "b0")
    assert looked == ["b0", "b0"]


def test_large_batches_push_others_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the reports that they hold, and by their number; who was asked for last stays."""
    monkeypatch.setattr("producer.server.board.MOST_REPORTS", 25)
    ledger, board = ledger_with(6), StatusBoard(60.0)
    poll = BatchMonitor.poll

    def large(self: BatchMonitor, **how: Any) -> Any:
        poll(self, **how)
        return SimpleNamespace(reported_shards=10)

    monkeypatch.setattr(BatchMonitor, "poll", large)
    for number in range(6):
        board.summary(ledger, f"b{number}")
    assert [url.rpartition("/")[2] for url in board._watched] == ["b4", "b5"]
    monkeypatch.setattr("producer.server.board.FOLLOWED", 1)
    board.summary(ledger, "b0")
    assert [url.rpartition("/")[2] for url in board._watched] == ["b0"]
