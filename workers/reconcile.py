"""Going on with batches: what nobody is at is sent again, what was not planned to its end is planned on.

Called by `apf resume` for one batch, and for all open ones by `apf reconcile` and the periodic task. Everything is read
from the ledger, so it works after Redis was flushed, a producer died, or an object was torn.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import BaseModel

from workers.attempts import attempts_at, is_live, now
from workers.errors import LedgerError, WorkerError
from workers.job import Batch, ShardJob, parse
from workers.ledger import Ledger
from workers.planning import Taken, plan, planned_anew
from workers.registry import open_batches, register, unregister
from workers.settings import Settings
from workers.store import open_store

log = logging.getLogger(__name__)

Send = Callable[[ShardJob], None]

#: A planner that wrote nothing for so long is gone. Its longest silence is one shard's listing.
PLANNER_LEASE_S = 300.0


class _Sent(BaseModel):
    """When a batch's open shards were last sent again."""

    at: str


@dataclass(frozen=True)
class Waiting:
    """What the broker holds, by its own count: in the queues, and given to workers."""

    queued: int
    taken: int


def resume(ledger: Ledger, batch_id: str, send: Send, settings: Settings) -> int:
    """Take the marks of a stop away, send every shard again that is not done and that nobody is at, and plan the rest.

    Returns how many were sent again. A shard that waits in the queue already is harmless there twice: whoever comes
    second finds the report, or writes the same bytes.
    """
    batch = ledger.read_batch(batch_id)
    # A batch that was done, and is not any more, is open again: a report was torn or lost.
    register(ledger, batch, settings)
    ledger.go_on(batch_id)
    count = send_open(ledger, batch, send, settings)
    plan_and_send(ledger, batch, send, settings)
    return count


def reconcile(urls: Iterable[str], send: Send, settings: Settings, waiting: Callable[[], Waiting]) -> dict[str, int]:
    """What `resume` does, for every open batch under these URLs, but for stopped ones and where nothing is due.

    Returns how many shards were sent, by batch. A batch that cannot be read is logged and left for the next time.
    """
    sent: dict[str, int] = {}
    for ledger, batch_id in open_batches(urls, settings):
        try:
            count = _reconcile_one(ledger, batch_id, send, settings, waiting)
        except WorkerError as error:
            log.warning("batch %s is left for the next time: %s", batch_id, error)
            continue
        if count:
            sent[batch_id] = count
    return sent


def send_open(
    ledger: Ledger, batch: Batch, send: Send, settings: Settings, *, only: Collection[int] | None = None
) -> int:
    """Send every planned shard that has no report and no live try; returns how many. Torn plans are made anew.

    Args:
        only: none but these, which have no report.
    """
    live = {attempt.shard for attempt in attempts_at(ledger, batch.id) if is_live(attempt)}
    wanted = ledger.open_shards(batch) if only is None else set(only)
    wanted -= live
    for shard in sorted(wanted):
        _mend_plan(ledger, batch, shard, settings)
        send(ShardJob(batch_url=ledger.batch_url(batch.id), shard=shard))
    _put_sent(ledger, batch.id)
    return len(wanted)


def plan_and_send(ledger: Ledger, batch: Batch, send: Send, settings: Settings) -> Batch:
    """Plan what is not planned yet, sending each shard as soon as its plan is written.

    Raises:
        Taken: somebody else plans it.
    """
    if batch.planned:
        return batch
    sent = batch.shards
    grown = batch
    planner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    source = open_store(batch.source, s3=settings.s3)
    for grown in plan(ledger, batch, source, planner=planner, max_photos=settings.max_batch_photos):
        while sent < grown.shards:
            send(ShardJob(batch_url=ledger.batch_url(batch.id), shard=sent))
            sent += 1
    return grown


def _reconcile_one(
    ledger: Ledger, batch_id: str, send: Send, settings: Settings, waiting: Callable[[], Waiting]
) -> int:
    batch = ledger.read_batch(batch_id)
    if ledger.stopped(batch_id):
        return 0
    open_shards = ledger.open_shards(batch)
    if batch.planned and not open_shards:
        unregister(batch, settings)
        return 0
    count = _send_lost(ledger, batch, open_shards, send, settings, waiting())
    if not batch.planned and _is_old(batch.updated_at or batch.created_at, PLANNER_LEASE_S):
        before = batch.shards
        with suppress(Taken):
            count += plan_and_send(ledger, batch, send, settings).shards - before
    return count


def _send_lost(
    ledger: Ledger, batch: Batch, open_shards: set[int], send: Send, settings: Settings, waiting: Waiting
) -> int:
    """All open shards where no message of theirs can be alive; else those whose worker died since they were sent."""
    attempts = attempts_at(ledger, batch.id)
    sent_at = _sent_at(ledger, batch)
    live = sum(map(is_live, attempts))
    if (not waiting.queued and waiting.taken <= live) or _is_old(sent_at, 2 * settings.visibility_timeout_s):
        return send_open(ledger, batch, send, settings, only=open_shards)
    # Redis delivers a dead worker's message again after the visibility timeout, an hour as a rule: that is long.
    died = {a.shard for a in attempts if not is_live(a) and _moment(a.seen_at) > _moment(sent_at)} & open_shards
    return send_open(ledger, batch, send, settings, only=died) if died else 0


def _mend_plan(ledger: Ledger, batch: Batch, shard: int, settings: Settings) -> None:
    try:
        ledger.read_plan(batch.id, shard)
    except LedgerError as error:
        log.warning("planned anew: %s", error)
        if batch.first_retry is not None and shard >= batch.first_retry:
            ledger.write_plan(batch.id, shard, [])  # its photos stay failed, and can be retried
            return
        anew = planned_anew(ledger, batch, shard, open_store(batch.source, s3=settings.s3))
        for number, photos in anew.items():
            ledger.write_plan(batch.id, number, photos)


def _sent_at(ledger: Ledger, batch: Batch) -> str:
    data = ledger.read(ledger.key(batch.id, "sent.json"))
    return parse(_Sent, data, LedgerError, "sent.json").at if data else batch.created_at


def _put_sent(ledger: Ledger, batch_id: str) -> None:
    ledger.put_json(ledger.key(batch_id, "sent.json"), _Sent(at=now().isoformat(timespec="milliseconds")))


def _is_old(moment: str, seconds: float) -> bool:
    return now() - _moment(moment) > timedelta(seconds=seconds)


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
