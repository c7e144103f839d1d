"""Serve what no single worker knows to Prometheus: the queues in Redis, and the ledger's open batches.

Two threads ask Redis and the store when somebody scrapes, not too often, and each answer is kept: a scrape never waits
for a service that hangs. What they ask is in `producer.exporter.collectors`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from celery import Celery
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from producer.exporter.batch_progress import Memory
from producer.exporter.collectors import batch_metrics, gauge, queue_metrics
from workers.config.settings import Settings
from workers.errors import WorkerError

log = logging.getLogger(__name__)

#: A scrape waits so long for an answer that is being made; Prometheus itself gives up after ten seconds.
PATIENCE_S = 8.0
#: An answer that took long is asked for less often: at most this part of the time is spent on asking.
BUSY = 0.25

Read = Callable[[], list[Metric]]


@dataclass
class _Kept:
    """The last answer, and how asking went."""

    metrics: Sequence[Metric] = ()
    up: bool = False
    failures: int = 0
    #: Unix time of the last success; 0: never.
    succeeded_at: float = 0.0
    seconds: float = 0.0


class Source:
    """What one service says, asked in a thread of its own and kept."""

    def __init__(self, target: str, read: Read, every_s: float) -> None:
        self.target = target
        self._read = read
        self._every_s = every_s
        self._kept = _Kept()
        self._due = 0.0
        self._lock = threading.Lock()
        self._answered = threading.Event()
        self._answered.set()

    def ask(self) -> None:
        """Begin to ask, where that is due and nobody does so already."""
        with self._lock:
            if not self._answered.is_set() or time.monotonic() < self._due:
                return
            self._answered.clear()
        threading.Thread(target=self._make, name=f"ask {self.target}", daemon=True).start()

    def answer(self, within_s: float) -> _Kept:
        """Return the newest answer there is after so many seconds."""
        self._answered.wait(max(0.0, within_s))
        return self._kept

    def _make(self) -> None:
        started, kept = time.monotonic(), self._kept
        try:
            metrics = self._read()
        except Exception as error:  # whatever it is, it must show, and not end the exporter
            if not isinstance(error, WorkerError):
                log.exception("%s could not be asked, in a way that nobody foresaw", self.target)
            else:
                log.warning("%s could not be asked: %s", self.target, error)
            # Old numbers would look like new ones: there are none.
            new = _Kept(failures=kept.failures + 1, succeeded_at=kept.succeeded_at)
        else:
            new = _Kept(metrics, up=True, failures=kept.failures, succeeded_at=time.time())
        new.seconds = time.monotonic() - started
        self._kept = new
        self._due = time.monotonic() + max(self._every_s, new.seconds * (1 - BUSY) / BUSY)
        self._answered.set()


class Exporter(Collector):
    """All of it, and whether it could be asked."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        deadline = time.monotonic() + PATIENCE_S
        for source in self._sources:
            source.ask()
        kept = {source.target: source.answer(deadline - time.monotonic()) for source in self._sources}
        for each in kept.values():
            yield from each.metrics
        yield gauge("apf_exporter_up", {target: each.up for target, each in kept.items()})
        succeeded = {target: each.succeeded_at for target, each in kept.items()}
        yield gauge("apf_exporter_last_success_timestamp_seconds", succeeded)
        yield gauge("apf_exporter_duration_seconds", {target: each.seconds for target, each in kept.items()})
        failures = CounterMetricFamily("apf_exporter_failures", "Times that it could not be asked.", labels=["target"])
        for target, each in kept.items():
            failures.add_metric([target], each.failures)
        yield failures


def exporter(app: Celery, settings: Settings) -> Exporter:
    """Return what Redis and the store of these settings say."""
    memory: Memory = {}
    every_s = settings.exporter_every_s
    return Exporter(
        [
            Source("redis", lambda: queue_metrics(app), every_s),
            Source("store", lambda: batch_metrics(settings, memory), every_s),
        ]
    )
