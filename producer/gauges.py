"""Gauges of the queue and of open batches. What they cost: two questions to Redis, and for each open batch its record,
its marks and the list of its reports, never what these say.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args

from celery import Celery
from prometheus_client.core import GaugeMetricFamily, Metric

from producer.progress import Memory, Standing, State, standing
from workers.errors import LedgerError
from workers.job import Lane
from workers.ledger import Ledger
from workers.registry import OPEN, open_batches, roots
from workers.sending import waiting
from workers.settings import Settings
from workers.store import open_store

log = logging.getLogger(__name__)

#: Batches that are looked at at once: each look is a handful of small requests.
READERS = 8

LANES: tuple[Lane, ...] = get_args(Lane)


def queue_metrics(app: Celery) -> list[Metric]:
    """What waits in Redis; raises BrokerError."""
    found = waiting(app)
    queued = {"bulk": found.queued}
    return [
        gauge("apf_queued_shards", "Messages in the queues, nearly all of them shards.", "lane",
               {lane: queued.get(lane, 0) for lane in LANES}),
        GaugeMetricFamily("apf_taken_shards", "Shards given to workers and not acknowledged; those of a dead worker "
                          "stay so for APF_VISIBILITY_TIMEOUT_S.", value=found.taken),
    ]  # fmt: skip


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
    return [*_counts(all_standings), *_ages([each for each in all_standings if each.state == "running"])]


def _look(pair: tuple[Ledger, str], memory: Memory) -> Standing | None:
    ledger, batch_id = pair
    try:
        return standing(ledger, batch_id, memory)
    except LedgerError as error:
        log.warning("batch %s is left out: %s", batch_id, error)
        return None


def _counts(standings: Sequence[Standing]) -> Iterator[Metric]:
    states = dict.fromkeys(get_args(State), 0)
    for each in standings:
        states[each.state] += 1
    yield gauge("apf_open_batches", "Batches that are registered as open. Reported: done, but not yet taken off the "
                 "register, which the next pass of `apf beat` does.", "state", states)  # fmt: skip
    running = [each for each in standings if each.state == "running"]
    yield gauge("apf_shards_open", "Shards without a report, in batches that are not stopped.", "lane",
                 {lane: sum(each.open_shards for each in running if each.lane == lane) for lane in LANES})  # fmt: skip
    yield gauge("apf_photos_pending", "Photos in these shards, by the mean of their batch's shards.", "lane",
                 {lane: math.ceil(sum(each.photos for each in running if each.lane == lane))
                  for lane in LANES})  # fmt: skip


def _ages(running: Sequence[Standing]) -> Iterator[Metric]:
    ages = {lane: [each.idle_s for each in running if each.lane == lane] for lane in LANES}
    yield gauge("apf_oldest_waiting_seconds", "Seconds in which the batch that waits longest has made no progress: no "
                 "report, no planning, no worker at it.", "lane",
                 {lane: max(each, default=0.0) for lane, each in ages.items()})  # fmt: skip
    yield gauge("apf_lane_idle_seconds", "Seconds in which no open batch has made progress; 0 where none is open.",
                 "lane", {lane: min(each, default=0.0) for lane, each in ages.items()})  # fmt: skip


def gauge(name: str, text: str, label: str, values: Mapping[Any, float]) -> Metric:
    """A gauge with one label: its values, and the number of each."""
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, number in values.items():
        family.add_metric([str(value)], number)
    return family
