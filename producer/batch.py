"""What the `apf` command does, as functions: start, resume, retry and cancel a batch."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

from apf.recipe import load_recipe
from producer.plan import plan
from workers.errors import LedgerError, WorkerError
from workers.job import Batch, PhotoRef, ShardJob
from workers.ledger import Failure, Ledger, new_batch_id, open_ledger
from workers.settings import Settings
from workers.store import Store, canonical_url, open_store, overlap

Send = Callable[[ShardJob], None]


class OverlapError(WorkerError):
    """Raised when source and destination share objects: a protected photo would be taken for a source."""


def find_ledger(destination: str, settings: Settings) -> Ledger:
    """The ledger of a destination."""
    return open_ledger(canonical_url(destination), ledger_url=settings.ledger_url, s3=settings.s3)


def create_batch(
    source: str, destination: str, *, recipe: str, no_face: Literal["copy", "skip"], settings: Settings
) -> tuple[Ledger, Batch]:
    """Write a new batch, with nothing planned yet.

    Raises:
        OverlapError: source and destination overlap.
        RecipeError: the recipe is unknown or malformed.
        StoreError: the source is missing, or the ledger cannot be written.
    """
    source, destination = canonical_url(source), canonical_url(destination)
    if overlap(source, destination):
        raise OverlapError(f"{source} and {destination} overlap: give a destination outside the source")
    found = load_recipe(recipe, detector=settings.detector)
    open_store(source, s3=settings.s3)
    open_store(destination, s3=settings.s3, create=True)
    batch = Batch(
        id=new_batch_id(),
        source=source,
        destination=destination,
        recipe=found,
        no_face=no_face,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        max_shard_photos=settings.shard_photos,
        max_shard_megapixels=settings.shard_megapixels,
    )
    ledger = find_ledger(destination, settings)
    ledger.write_batch(batch)
    return ledger, batch


def plan_and_send(ledger: Ledger, batch: Batch, send: Send, settings: Settings) -> Batch:
    """Plan what is not planned yet, sending each shard as soon as its plan is written."""
    if batch.planned:
        return batch
    sent = batch.shards
    grown = batch
    for grown in plan(ledger, batch, open_store(batch.source, s3=settings.s3)):
        while sent < grown.shards:
            send(_job(ledger, batch.id, sent))
            sent += 1
    return grown


def resume(ledger: Ledger, batch_id: str, send: Send, settings: Settings) -> int:
    """Send every planned shard without a report again, then plan the rest; returns how many were sent again.

    A shard that is in fact still running is harmless: whoever comes second finds the report or writes the same bytes.
    """
    batch = ledger.read_batch(batch_id)
    ledger.uncancel(batch_id)
    open_shards = [shard for shard in range(batch.shards) if not ledger.has_report(batch_id, shard)]
    for shard in open_shards:
        send(_job(ledger, batch_id, shard))
    plan_and_send(ledger, batch, send, settings)
    return len(open_shards)


def retry(ledger: Ledger, batch_id: str, send: Send, settings: Settings) -> int:
    """Send the failed photos again, as the source has them now; returns how many there are.

    Raises:
        LedgerError: the batch has shards that nobody has finished.
    """
    summary = ledger.summary(batch_id)
    batch = ledger.read_batch(batch_id)
    if summary.pending or not batch.planned:
        raise LedgerError(f"batch {batch_id} still has {summary.pending} photos pending: `apf resume` it first")
    ledger.uncancel(batch_id)
    source = open_store(batch.source, s3=settings.s3)
    photos = [_as_it_is_now(failure, source) for failure in summary.failures]
    for start in range(0, len(photos), batch.max_shard_photos):
        ledger.write_plan(batch_id, batch.shards, photos[start : start + batch.max_shard_photos], retries=True)
        batch = batch.model_copy(update={"shards": batch.shards + 1})
        ledger.write_batch(batch)
        send(_job(ledger, batch_id, batch.shards - 1))
    return len(photos)


def latest_batch(ledger: Ledger, destination: str) -> str:
    """The newest batch of a destination.

    Raises:
        LedgerError: there is none.
    """
    ids = ledger.batches()
    if not ids:
        raise LedgerError(f"no batch was ever run into {destination}: check the destination, or APF_LEDGER_URL")
    return ids[-1]


def _job(ledger: Ledger, batch_id: str, shard: int) -> ShardJob:
    return ShardJob(batch_url=ledger.batch_url(batch_id), shard=shard)


def _as_it_is_now(failure: Failure, source: Store) -> PhotoRef:
    """The photo's present version; a deleted one keeps its old ETag, and fails again as deleted."""
    info = source.head(failure.key)
    if info is None:
        return PhotoRef(key=failure.key, etag=failure.etag, size=0)
    return PhotoRef(key=info.key, etag=info.etag, size=info.size)
