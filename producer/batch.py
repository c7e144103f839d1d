"""What the `apf` command does, as functions: start, resume, retry and cancel a batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from workers.asking import (
    Asked,
    OverlapError,
    check_recipe,
    create_batch,
    find_batch,
    find_ledger,
    new_batch,
    write_alone,
    write_new,
)
from workers.errors import LedgerError
from workers.job import PhotoRef, ShardJob
from workers.ledger import Ledger, all_of
from workers.reconcile import job_of
from workers.registry import register
from workers.settings import Settings
from workers.store import Store, open_store
from workers.watch import BatchWatch, Failure

__all__ = [
    "Asked",
    "OverlapError",
    "check_recipe",
    "create_batch",
    "find_batch",
    "find_ledger",
    "new_batch",
    "retry",
    "write_alone",
    "write_new",
]

Send = Callable[[ShardJob], None]


def retry(ledger: Ledger, batch_id: str, send: Send, settings: Settings) -> int:
    """Send the failed photos again, as the source has them now; returns how many there are.

    Raises:
        LedgerError: the batch has shards that nobody has finished.
    """
    summary = BatchWatch(ledger, batch_id).poll()
    batch = ledger.read_batch(batch_id)
    if summary.pending or not batch.planned:
        raise LedgerError(f"batch {batch_id} still has {summary.pending} photos pending: `apf resume` it first")
    ledger.go_on(batch_id)
    register(ledger, batch, settings)
    source = open_store(batch.source, s3=settings.s3)
    photos = all_of(partial(_as_it_is_now, source), summary.failures)
    parts = [photos[start : start + batch.max_shard_photos] for start in range(0, len(photos), batch.max_shard_photos)]
    shards = range(batch.shards, batch.shards + len(parts))
    for shard, part in zip(shards, parts, strict=True):
        ledger.write_plan(batch_id, shard, part)
    if parts:
        first = batch.shards if batch.first_retry is None else batch.first_retry
        # All at once: with the first alone the batch could end, and call back, before the others are there.
        batch = batch.model_copy(update={"shards": shards.stop, "first_retry": first})
        ledger.write_batch(batch)
        # Once more: somebody may have found the batch done, and taken it off, until now.
        register(ledger, batch, settings)
    for shard in shards:
        send(job_of(ledger, batch, shard))
    return len(photos)


def _as_it_is_now(source: Store, failure: Failure) -> PhotoRef:
    """The photo's present version; a deleted one keeps its old ETag, and fails again as deleted."""
    info = source.head(failure.key)
    if info is None:
        return PhotoRef(key=failure.key, etag=failure.etag, size=0)
    return PhotoRef(key=info.key, etag=info.etag, size=info.size)
