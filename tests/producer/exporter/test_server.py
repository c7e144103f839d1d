"""The exporter's parts: what a look at a batch costs, and that a scrape never waits for what hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from apf.recipe import load_recipe
from producer.exporter.batch_progress import Memory, batch_progress
from producer.exporter.collectors import batch_metrics
from producer.exporter.server import BUSY, Exporter, Source
from workers.broker.client import BrokerError
from workers.config.settings import Settings
from workers.core.clock import now
from workers.core.records import Batch
from workers.ledger.batch_ledger import Ledger, open_ledger
from workers.ledger.open_batches import register
from workers.store import open_store

SHARDS = 8000


def batch_of(out: str, **fields: Any) -> Batch:
    made = {"id": "b1", "created_at": "2020-01-01T00:00:00+00:00", "planned": True, **fields}
    return Batch(source="memory://x/in", destination=out, recipe=load_recipe("light"), **made)


class Counting:
    """A store that counts what is asked of it."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not callable(found):
            return found

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.asked.append(name)
            return found(*args, **kwargs)

        return counted


def test_a_look_at_a_million_photos_reads_no_report() -> None:
    """Reports are listed; their bytes are none, and nobody minds."""
    store = Counting(open_store("memory://million/out"))
    ledger = Ledger(store, ".apf")  # type: ignore[arg-type]  # it is one, by delegation
    ledger.write_batch(batch_of("memory://million/out", shards=SHARDS, photos=1_000_000))
    for shard in range(SHARDS - 100):
        store.put(ledger.key("b1", "reports", f"{shard:05}.jsonl"), b"")
    store.asked.clear()
    found = batch_progress(ledger, "b1", {})
    assert (found.open_shards, found.photos, found.state) == (100, 12500, "running")
    assert store.asked.count("get") == 1
    assert len(store.asked) <= 6


def test_progress_is_a_report_that_was_not_there_before() -> None:
    """A batch that was planned long ago has waited as long, until something of it changes."""
    ledger = open_ledger("memory://progress/out")
    ledger.write_batch(batch_of("memory://progress/out", shards=2, photos=2))
    memory: Memory = {}
    assert batch_progress(ledger, "b1", memory).idle_s > 10**8
    assert batch_progress(ledger, "b1", memory).idle_s > 10**8
    ledger.store.put(ledger.key("b1", "reports", "00000.jsonl"), b"")
    assert batch_progress(ledger, "b1", memory).idle_s < 5
    time.sleep(0.05)
    assert 0.05 < batch_progress(ledger, "b1", memory).idle_s < 5
    ledger.store.put(ledger.key("b1", "reports", "00001.jsonl"), b"")
    done = batch_progress(ledger, "b1", memory)
    assert (done.state, done.idle_s, done.open_shards) == ("reported", 0, 0)


def test_a_damaged_batch_is_left_out_and_a_closed_one_forgotten(tmp_path: Path) -> None:
    settings = Settings(ledger_url=tmp_path.as_uri())
    ledger = open_ledger("memory://x/out", ledger_url=settings.ledger_url)
    for name in ("good", "bad"):
        batch = batch_of("memory://x/out", id=name, shards=3, photos=6, updated_at=now().isoformat())
        ledger.write_batch(batch)
        register(ledger, batch, settings)
    ledger.store.put(ledger.key("bad", "batch.json"), b"{")
    memory: Memory = {}
    values = {s.labels["lane"]: s.value for m in batch_metrics(settings, memory) if m.name == "apf_shards_open"
              for s in m.samples}  # fmt: skip
    assert values == {"interactive": 0, "bulk": 3}
    assert len(memory) == 1
    for marker in (tmp_path / ".apf" / "open").iterdir():
        marker.unlink()
    batch_metrics(settings, memory)
    assert memory == {}


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def samples(exporter: Exporter) -> dict[str, float]:
    return {f"{s.name} {s.labels.get('target', '')}": s.value for metric in exporter.collect() for s in metric.samples}


def test_a_scrape_does_not_wait_for_what_hangs(gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """One service hangs, the other's answer is there; only one thread hangs with it, however often it is scraped."""
    monkeypatch.setattr("producer.exporter.server.PATIENCE_S", 0.2)

    def hang() -> list[Any]:
        gate.wait(30)
        return []

    hung = Source("redis", hang, 0)
    exporter = Exporter([hung, Source("store", list, 0)])
    started = time.monotonic()
    for _ in range(3):
        found = samples(exporter)
    assert time.monotonic() - started < 20
    assert (found["apf_exporter_up redis"], found["apf_exporter_up store"]) == (0, 1)
    assert [thread.name for thread in threading.enumerate()].count("ask redis") == 1


def test_a_failure_is_counted_and_ends() -> None:
    """Expected or not; the next asking may succeed."""
    errors: list[Exception] = [BrokerError("gone"), ZeroDivisionError()]

    def read() -> list[Any]:
        if errors:
            raise errors.pop()
        return []

    exporter = Exporter([Source("redis", read, 0)])
    ups = []
    while not ups or not ups[-1]:
        found = samples(exporter)
        ups.append(found["apf_exporter_up redis"])
        assert len(ups) < 1000
    assert found["apf_exporter_failures_total redis"] == 2
    assert found["apf_exporter_last_success_timestamp_seconds redis"] == pytest.approx(time.time(), abs=30)


def test_asking_takes_its_rest() -> None:
    """Neither sooner than it was set, nor for more than a part of the time."""
    calls: list[float] = []

    def read() -> list[Any]:
        calls.append(time.monotonic())
        time.sleep(0.1)
        return []

    source = Source("store", read, 0)
    while len(calls) < 3:
        source.ask()
        source.answer(1)
    assert min(b - a for a, b in pairwise(calls)) >= 0.1 / BUSY * 0.95
    rare = Source("store", lambda: calls.append(0.0) or [], 60)  # type: ignore[func-returns-value]
    before = len(calls)
    for _ in range(5):
        rare.ask()
        rare.answer(1)
    assert len(calls) == before + 1
