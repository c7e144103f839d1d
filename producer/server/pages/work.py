"""What workers and queues are at."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial

from redis.exceptions import RedisError

from producer.server.index import Wanted
from producer.server.listing import page
from producer.server.services import Services
from producer.server.tokens import Grant
from workers.broker.client import queue_snapshot
from workers.broker.presence import Listener, by_lane, listeners
from workers.broker.queues import all_queues
from workers.core.clock import now
from workers.core.records import BULK, INTERACTIVE, Lane
from workers.errors import WorkerError
from workers.status.batch_status import BatchSummary
from workers.telemetry.redaction import masked

#: Of so many open batches the one that has waited longest is looked for.
LOOKED_AT = 200


@dataclass(frozen=True)
class LaneWork:
    """A lane's queue."""

    name: Lane
    #: Messages, nearly all of them shards.
    queued: int
    #: Workers that listen to it.
    heard: int
    #: Seconds since the submission of the oldest open batch of which nobody has begun a photo; None: there is none.
    oldest_s: float | None


@dataclass(frozen=True)
class Work:
    """All of it; with what could not be asked."""

    lanes: tuple[LaneWork, ...]
    workers: tuple[Listener, ...]
    taken: int
    error: str = ""


def work_of(the: Services, grant: Grant) -> Work:
    """Return what workers and queues are at; Redis's silence is told, and no error."""
    waiting = _waiting(the, grant)
    try:
        found = queue_snapshot(the.celery)
        seen = tuple(listeners(the.counters.redis, the.settings.broker_key_prefix)) if the.counters.redis else ()
    except (WorkerError, RedisError) as error:
        lanes = tuple(LaneWork(lane, 0, 0, waiting(lane)) for lane in (INTERACTIVE, BULK))
        return Work(lanes, (), 0, masked(str(error)))
    lanes = tuple(
        LaneWork(
            lane,
            sum(found.queued.get(name, 0) for name in all_queues([lane])),
            sum(one.listens and not one.queues.isdisjoint(all_queues([lane])) for one in seen),
            waiting(lane),
        )
        for lane in (INTERACTIVE, BULK)
    )
    return Work(lanes, seen, len(found.taken))


def queues_of(worker: Listener) -> str:
    """Return the names of a worker's queues, a lane's for all of its own."""
    return ", ".join(by_lane(sorted(worker.queues)))


def _waiting(the: Services, grant: Grant) -> partial[float | None]:
    found = page(the, Wanted(tenants=grant.tenants, is_open=True), LOOKED_AT).summaries
    return partial(_oldest_s, [one for one in found if not one.done and not one.stopped and not _is_begun(one)])


def _is_begun(summary: BatchSummary) -> bool:
    return bool(summary.reported_shards or summary.running.photos)


def _oldest_s(waiting: list[BatchSummary], lane: Lane) -> float | None:
    made = [datetime.fromisoformat(one.batch.created_at) for one in waiting if one.batch.lane == lane]
    return (now() - min(made)).total_seconds() if made else None
