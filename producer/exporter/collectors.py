"""Gauges of the queue and of open batches: two requests to Redis, and three listings and reads per batch."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args

from celery import Celery
from prometheus_client.core import GaugeMetricFamily, Metric

from producer.exporter.batch_progress import BatchProgress, Memory, State, batch_progress
from workers.broker.client import queue_snapshot
from workers.broker.queues import all_queues
from workers.config.settings import Settings
from workers.core.records import Lane
from workers.errors import LedgerError, StoreError
from workers.ledger.batch_ledger import Ledger
from workers.ledger.open_batches import OPEN, open_batches, roots
from workers.store import open_store

log = logging.getLogger(__name__)

#: Batches that are looked at at once: each look is a handful of small requests.
READERS = 8

LANES: tuple[Lane, ...] = get_args(Lane)

#: Name to label and meaning.
GAUGES = {
    "apf_queued_shards": ("lane", "Messages in the queues, nearly all of them shards."),
    "apf_shards_open": ("lane", "Shards without a report, in batches that are not stopped."),
    "apf_photos_pending": ("lane", "Photos in these shards, by the mean of their batch's shards."),
    "apf_open_batches": (
        "state",
        "Batches that are registered as open; reported: done, and taken off the register by the next pass of apf beat.",
    ),
    "apf_oldest_waiting_seconds": (
        "lane",
        "Longest time in which a batch has made no progress: no report, no planning, no worker at it.",
    ),
    "apf_lane_idle_seconds": ("lane", "Time in which no open batch has made progress; 0 where none is open."),
    "apf_exporter_up": ("target", "Whether the service could be asked the last time."),
    "apf_exporter_last_success_timestamp_seconds": ("target", "When it could last be asked, in Unix time; 0: never."),
    "apf_exporter_duration_seconds": ("target", "Seconds that the last asking took."),
}


def gauge(name: str, values: Mapping[Any, float]) -> Metric:
    """One of `GAUGES`: the values of its label, and the number of each."""
    label, meaning = GAUGES[name]
    family = GaugeMetricFamily(name, meaning, labels=[label])
    for value, number in values.items():
        family.add_metric([str(value)], number)
    return family


def queue_metrics(app: Celery) -> list[Metric]:
    """Return what waits in Redis; raises BrokerError."""
    found = queue_snapshot(app)
    meaning = "Shards given to workers and not acknowledged, those that a dead worker held among them."
    return [
        gauge(
            "apf_queued_shards",
            {lane: sum(found.queued.get(name, 0) for name in all_queues([lane])) for lane in LANES},
        ),
        GaugeMetricFamily("apf_taken_shards", meaning, value=len(found.taken)),
    ]


def batch_metrics(settings: Settings, memory: Memory) -> list[Metric]:
    """How far the open batches are, by the ledger.

    Args:
        memory: what earlier calls saw of each batch; changed.

    Raises:
        WorkerError: the store cannot be asked. A batch whose record is damaged is logged and left out.
    """
    urls = roots(settings)
    for url in urls:  # `open_batches` leaves out what it cannot list
        next(open_store(url, s3=settings.s3).list(OPEN), None)
    found = list(open_batches(urls, settings))
    with ThreadPoolExecutor(READERS) as pool:
        all_standings = [each for each in pool.map(lambda pair: _look(pair, memory), found) if each]
    open_urls = {ledger.batch_url(batch_id) for ledger, batch_id in found}
    for url in memory.keys() - open_urls:
        del memory[url]
    return [_states(all_standings), *_lanes([each for each in all_standings if each.state == "running"])]


def _look(pair: tuple[Ledger, str], memory: Memory) -> BatchProgress | None:
    ledger, batch_id = pair
    try:
        return batch_progress(ledger, batch_id, memory)
    except LedgerError as error:
        log.warning("batch %s is left out: %s", batch_id, error)
        return None
    except StoreError:
        raise
    except Exception:  # whatever is wrong with one batch's objects hides no other
        log.exception("batch %s is left out: unexpected error", batch_id)
        return None


def _states(standings: Sequence[BatchProgress]) -> Metric:
    counts = Counter(each.state for each in standings)
    return gauge("apf_open_batches", {state: counts[state] for state in get_args(State)})


def _lanes(running: Sequence[BatchProgress]) -> Iterator[Metric]:
    lanes = {lane: [each for each in running if each.lane == lane] for lane in LANES}

    def of(each_lane: Callable[[list[BatchProgress]], float]) -> dict[Lane, float]:
        return {lane: each_lane(mine) for lane, mine in lanes.items()}

    yield gauge("apf_shards_open", of(lambda mine: sum(each.open_shards for each in mine)))
    yield gauge("apf_photos_pending", of(lambda mine: math.ceil(sum(each.photos for each in mine))))
    yield gauge("apf_oldest_waiting_seconds", of(lambda mine: max((each.idle_s for each in mine), default=0.0)))
    yield gauge("apf_lane_idle_seconds", of(lambda mine: min((each.idle_s for each in mine), default=0.0)))
