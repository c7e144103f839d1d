"""Requeue orphaned shards and resume interrupted planning.

Called by `apf resume` for one batch, and for all open ones by `apf reconcile` and the periodic task. Everything is read
from the ledger, so it works after Redis was flushed, a producer died, or an object was torn.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial

from celery.exceptions import SoftTimeLimitExceeded
from pydantic import BaseModel

from workers.access.batch_records import check_batch
from workers.batches.plan import PlannerConflict, plan, plan_named
from workers.batches.repair_plan import caught_up, planned_anew
from workers.broker.client import Broker
from workers.broker.queue_state import QueueSnapshot
from workers.broker.queues import queue_of
from workers.config.settings import Settings
from workers.core.clock import now
from workers.core.records import BULK, Attempt, Batch, Moment, ShardJob, parse
from workers.errors import LedgerError, NewerRecord, WorkerError
from workers.ledger.batch_ledger import Ledger, all_of
from workers.ledger.callback_state import delivery_started
from workers.ledger.leases import attempts_at, is_live, mark_missed
from workers.ledger.lifecycle import close
from workers.ledger.open_batches import open_batches, register
from workers.ledger.report_cache import open_shards
from workers.store import open_store

log = logging.getLogger(__name__)

#: A planner that wrote nothing for so long is gone.
PLANNER_LEASE_S = 300.0
#: A planner asks so often whether its batch was cancelled or paused.
LOOK_FOR_STOP_S = 5.0
LOOKED = "looked.json"
#: Plans that are looked at before their shards are sent.
WINDOW = 64


class _QueueSearched(BaseModel):
    """When the queue was last searched for a batch's messages."""

    at: Moment


def resume(ledger: Ledger, batch_id: str, broker: Broker, settings: Settings) -> int:
    """Clear a stop, requeue every shard that is not done and that no worker holds, and plan the rest.

    Returns how many were sent again. A shard that waits in the queue already is harmless there twice: the
    second run finds the report, or writes the same bytes.
    """
    batch = ledger.read_batch(batch_id)
    # A batch that was done, and is not any more, is open again: a report was torn or lost.
    register(ledger, batch, settings)
    ledger.clear_stop(batch_id)
    attempts = attempts_at(ledger, batch_id)
    count = _send(ledger, batch, open_shards(ledger, batch), attempts, broker, settings)
    plan_and_send(ledger, batch_id, broker, settings)
    return count


def reconcile(urls: Iterable[str], broker: Broker, settings: Settings) -> dict[str, int]:
    """Rescue every open batch under these URLs, but for stopped ones and where nothing is due.

    Callbacks that are owed are asked for, and batches that no planner holds are planned on, by the broker's workers.

    Returns how many shards were sent, by batch. A batch that cannot be read is logged and left for the next time.
    """
    sent: dict[str, int] = {}
    for ledger, batch_id in open_batches(urls, settings):
        try:
            count = reconcile_batch(ledger, batch_id, broker, settings)
        except WorkerError as error:
            log.warning("batch %s is left for the next time: %s", batch_id, error)
            continue
        except SoftTimeLimitExceeded:
            raise
        except Exception:  # whatever is wrong with one batch's objects holds up no other
            log.exception("batch %s is left out: unexpected error", batch_id)
            continue
        if count:
            sent[batch_id] = count
    return sent


def periodic_rescuer(ledger: Ledger, batch_id: str, broker: Broker, settings: Settings) -> Callable[[], None]:
    """Return a function to call while a command follows a batch: it reconciles the batch, at most once a lease."""
    last = time.monotonic()

    def rescue() -> None:
        nonlocal last
        if time.monotonic() - last < settings.lease_s:
            return
        last = time.monotonic()
        try:
            reconcile_batch(ledger, batch_id, broker, settings)
        except WorkerError as error:
            log.warning("batch %s is looked at again later: %s", batch_id, error)

    return rescue


def plan_and_send(
    ledger: Ledger, batch_id: str, broker: Broker, settings: Settings, enough: Callable[[], bool] = lambda: False
) -> Batch:
    """Plan what is not planned yet, sending each shard as soon as its plan is written; until the batch is stopped.

    Args:
        enough: asked after each shard, and every few seconds; where it says so, the batch is returned as it is then.

    Raises:
        PlannerConflict: another planner holds it.
        BatchTooLarge: the source has too many photos; those that may be are planned and sent.
    """
    # As it is now: an older record would plan anew what has been planned meanwhile.
    grown = batch = ledger.read_batch(batch_id)
    if batch.planned:
        return batch
    sent = batch.shards  # those found by `caught_up` may never have been sent
    looked = time.monotonic()
    planner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    source = open_store(batch.source, s3=settings.s3)
    for grown in plan(ledger, caught_up(ledger, batch), source, planner=planner, max_photos=settings.max_batch_photos):
        while sent < grown.shards:
            broker.send(job_of(ledger, grown, sent))
            sent += 1
        if time.monotonic() - looked > LOOK_FOR_STOP_S:
            looked = time.monotonic()
            if ledger.stopped(batch_id):
                break
        if enough():
            break
    return grown


def send_named(ledger: Ledger, batch: Batch, broker: Broker) -> None:
    """Write the plans of a batch that names its photos, and send its shards."""
    plan_named(ledger, batch)
    for shard in range(batch.shards):
        broker.send(job_of(ledger, batch, shard))


def job_of(ledger: Ledger, batch: Batch, shard: int) -> ShardJob:
    """Return the message of a batch's shard."""
    return ShardJob(batch_url=ledger.batch_url(batch.id), shard=shard, queue=queue_of(batch))


def reconcile_batch(ledger: Ledger, batch_id: str, broker: Broker, settings: Settings) -> int:
    """`reconcile` for one batch; raises WorkerError."""
    notify = None if broker.embedded else broker.callback
    batch = ledger.read_batch(batch_id)
    if ledger.stopped(batch_id):
        return 0
    # it has ended: a receiver that is down for a day is no reason to read all reports
    if delivery_started(ledger, batch):
        close(ledger, batch, settings, notify)
        return 0
    still_open = open_shards(ledger, batch)
    if batch.planned and not still_open:
        close(ledger, batch, settings, notify)
        return 0
    if settings.allowed_urls:  # the record could be forged: nothing is listed or mended for it
        check_batch(ledger, batch, settings)
    count = _send_lost(ledger, batch, still_open, broker, settings)
    silent_since = batch.updated_at or batch.created_at
    if batch.planned or not _is_old(silent_since, PLANNER_LEASE_S):
        return count
    if broker.embedded:
        before = batch.shards
        with suppress(PlannerConflict):
            count += plan_and_send(ledger, batch_id, broker, settings).shards - before
    elif not broker.queue_state().queued.get(queue_of(batch)) or _is_old(silent_since, settings.visibility_timeout_s):
        # Else its planning may wait there, behind the shards that were planned.
        broker.plan(ledger.batch_url(batch_id))
    return count


def _send_lost(ledger: Ledger, batch: Batch, still_open: set[int], broker: Broker, settings: Settings) -> int:
    """All open shards where no message of theirs can be alive; else those whose worker died since they were sent."""
    waiting = broker.queue_state()
    attempts = attempts_at(ledger, batch.id)
    taken = _taken_unseen(ledger.batch_url(batch.id), waiting, attempts)
    # Older producers put all shards into one queue.
    queues = {queue_of(batch), BULK}
    if not any(waiting.queued.get(queue, 0) for queue in queues):
        return _send(ledger, batch, still_open - taken, attempts, broker, settings)
    # Redis delivers a dead worker's message again after the visibility timeout, an hour as a rule: that is long.
    lost = {a.shard for a in attempts if not is_live(a) and not a.missed} & still_open
    if _is_old(_looked_at(ledger, batch), settings.visibility_timeout_s):
        url = ledger.batch_url(batch.id)
        lost |= still_open - taken - {job.shard for job in waiting.jobs(queues) if job.batch_url == url}
        ledger.put_json(ledger.key(batch.id, LOOKED), _QueueSearched(at=now().isoformat(timespec="milliseconds")))
    return _send(ledger, batch, lost, attempts, broker, settings)


def _taken_unseen(url: str, waiting: QueueSnapshot, attempts: list[Attempt]) -> set[int]:
    """Shards that a worker was given and has not begun; the message of a dead try stays in Redis for long."""
    given = Counter(job.shard for job in waiting.taken if job.batch_url == url)
    given.subtract(attempt.shard for attempt in attempts)
    return {shard for shard, unseen in given.items() if unseen > 0}


def _send(
    ledger: Ledger, batch: Batch, shards: set[int], attempts: list[Attempt], broker: Broker, settings: Settings
) -> int:
    """Send those of these open shards that no worker holds, by the batch's tries. Torn plans are made anew."""
    wanted = sorted(shards - {attempt.shard for attempt in attempts if is_live(attempt)})
    if wanted:
        broker.keep_row(batch)
    for first in range(0, len(wanted), WINDOW):
        some = wanted[first : first + WINDOW]
        for shard, is_whole in zip(some, all_of(partial(ledger.has_plan, batch.id), some), strict=True):
            if not is_whole:
                _mend_plan(ledger, batch, shard, settings)
            broker.send(job_of(ledger, batch, shard))
    sent = set(wanted)
    mark_missed(ledger, batch.id, [a for a in attempts if a.shard in sent and not a.missed])
    return len(wanted)


def _mend_plan(ledger: Ledger, batch: Batch, shard: int, settings: Settings) -> None:
    try:
        ledger.read_plan(batch.id, shard)
    except NewerRecord:
        raise  # it is whole: nothing is mended by planning it as an older version would
    except LedgerError as error:
        log.warning("planned anew: %s", error)
        if batch.first_retry is not None and shard >= batch.first_retry:
            ledger.write_plan(batch.id, shard, [])  # its photos stay failed, and can be retried
            return
        anew = planned_anew(ledger, batch, shard, open_store(batch.source, s3=settings.s3))
        for number, photos in anew.items():
            ledger.write_plan(batch.id, number, photos)


def _looked_at(ledger: Ledger, batch: Batch) -> str:
    with suppress(LedgerError):  # torn
        if data := ledger.read(ledger.key(batch.id, LOOKED)):
            return parse(_QueueSearched, data, LedgerError, LOOKED).at
    return batch.created_at


def _is_old(moment: str, seconds: float) -> bool:
    return now() - _moment(moment) > timedelta(seconds=seconds)


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
