"""Retry a batch's failed photos, in shards of their own."""

from __future__ import annotations

from functools import partial

from workers.batches.rescue import job_of
from workers.broker.client import Broker
from workers.config.settings import Settings
from workers.core.records import PhotoRef
from workers.errors import LedgerError
from workers.ledger.batch_ledger import Ledger, all_of
from workers.ledger.open_batches import register
from workers.status.batch_status import BatchMonitor, Failure
from workers.store import Store, open_store


def retry(ledger: Ledger, batch_id: str, broker: Broker, settings: Settings) -> int:
    """Send the failed photos again, as the source has them now; returns how many there are.

    Raises:
        LedgerError: the batch has unfinished shards.
    """
    summary = BatchMonitor(ledger, batch_id).poll()
    batch = ledger.read_batch(batch_id)
    if summary.pending or not batch.planned:
        raise LedgerError(f"batch {batch_id} still has {summary.pending} photos pending: `apf resume` it first")
    ledger.clear_stop(batch_id)
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
        # Once more: a pass may have found the batch done, and taken it off, until now.
        register(ledger, batch, settings)
    for shard in shards:
        broker.send(job_of(ledger, batch, shard))
    return len(photos)


def _as_it_is_now(source: Store, failure: Failure) -> PhotoRef:
    """Return the photo's present version; a deleted one keeps its old ETag, and fails again as deleted."""
    info = source.head(failure.key)
    if info is None:
        return PhotoRef(key=failure.key, etag=failure.etag, size=0)
    return PhotoRef(key=info.key, etag=info.etag, size=info.size)
