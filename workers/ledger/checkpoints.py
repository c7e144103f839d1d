"""Checkpoints of preempted bulk shards: the next try, by any worker, resumes there.

    <batch>/begun/00042.json    the outcomes so far; gone once the shard is reported

It saves work and is no truth: without it outputs are asked for one by one, as workers of earlier versions do.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress

from workers.core.records import BULK, Batch, PhotoRef, PhotoReport, Totals, WorkerOutput, parse
from workers.errors import LedgerError, StoreError
from workers.ledger.batch_ledger import Ledger

log = logging.getLogger(__name__)


class Checkpoint(WorkerOutput):
    """Outcomes that no further try of the shard changes."""

    shard: int
    #: Of the batch: one that was made anew under the same id begins anew.
    created_at: str
    photos: tuple[PhotoReport, ...]


def read_checkpoint(ledger: Ledger, batch: Batch, shard: int, refs: Sequence[PhotoRef]) -> dict[str, PhotoReport]:
    """Return the outcomes that earlier tries left of these photos, by key; raises StoreError."""
    if batch.lane != BULK:  # uploads are short, and give way to nothing
        return {}
    versions = {ref.key: ref.etag for ref in refs}
    begun = _read(ledger, batch, _key(ledger, batch, shard))
    return {photo.key: photo for photo in begun if versions.get(photo.key) == photo.etag}


def write_checkpoint(ledger: Ledger, batch: Batch, shard: int, photos: Iterable[PhotoReport]) -> None:
    """Keep what is done, as well as may be: those that failed for a reason that passes are not."""
    done = tuple(photo for photo in photos if not photo.transient)
    if batch.lane != BULK or not done:
        return
    try:
        ledger.put_json(_key(ledger, batch, shard), Checkpoint(shard=shard, created_at=batch.created_at, photos=done))
    except StoreError as error:
        log.warning("what is done of shard %s is not noted: %s", shard, error)


def delete_checkpoint(ledger: Ledger, batch: Batch, shard: int) -> None:
    """Delete the checkpoint of a shard that is reported."""
    with suppress(StoreError):
        ledger.store.delete(_key(ledger, batch, shard))


def checkpoint_totals(ledger: Ledger, batch: Batch) -> dict[int, Totals]:
    """Sum over what is done of each shard that was left, by shard; raises StoreError."""
    keys = [info.key for info in ledger.store.list(ledger.key(batch.id, "begun", ""))]
    names = {key: key.rsplit("/", 1)[-1].removesuffix(".json") for key in keys}
    return {int(name): Totals.of(_read(ledger, batch, key)) for key, name in names.items() if name.isdigit()}


def _key(ledger: Ledger, batch: Batch, shard: int) -> str:
    return ledger.key(batch.id, "begun", f"{shard:05}.json")


def _read(ledger: Ledger, batch: Batch, key: str) -> tuple[PhotoReport, ...]:
    with suppress(LedgerError):  # torn
        data = ledger.read(key)
        begun = parse(Checkpoint, data, LedgerError, key) if data else None
        if begun and begun.created_at == batch.created_at:
            return begun.photos
    return ()
