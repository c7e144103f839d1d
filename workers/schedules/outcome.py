"""Outcome of a run, read from its batches' reports one after the other: a batch of any size fits in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from workers.batches.plan import key_digest
from workers.core.records import Batch, Totals
from workers.ledger.batch_ledger import Ledger
from workers.ledger.leases import attempts_at, is_live
from workers.ledger.report_cache import open_shards
from workers.status.reports import WINDOW, reports, retries

#: Photos without an output that a schedule remembers; what is beyond them may be run once more.
MAX_WITHOUT_OUTPUT = 5000

#: Photos that failed for a reason that may pass and are run again by themselves; of more, the whole run is made again.
MAX_AGAIN = 1000


@dataclass(frozen=True)
class BatchOutcome:
    totals: Totals
    #: Every photo has an outcome, and no more than `MAX_AGAIN` failed for a reason that may pass.
    complete: bool
    #: `key_digest` of each photo that failed for such a reason.
    again: tuple[str, ...]
    #: `digest` of each photo that has no output.
    without_output: tuple[str, ...]


def digest(key: str, etag: str) -> str:
    """Return a short name for this version of a photo."""
    return hashlib.sha256(f"{key}\0{etag}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def is_over(ledger: Ledger, batch: Batch) -> bool:
    """Return whether nothing more comes of the batch by itself."""
    if ledger.stopped(batch.id) == "cancelled":
        return _is_left(ledger, batch)
    return _is_listed(ledger, batch) and not open_shards(ledger, batch)


def outcome_of(ledger: Ledger, batch: Batch, keep: Callable[[], None] = lambda: None) -> BatchOutcome | None:
    """Return what became of a batch's photos; None unless `is_over`. Each report is read once.

    Args:
        keep: called now and then.
    """
    cancelled = ledger.stopped(batch.id) == "cancelled"
    if not (_is_left(ledger, batch) if cancelled else _is_listed(ledger, batch)):
        return None
    totals, without, again = Totals(), list[str](), list[str]()
    for number, reported in enumerate(reports(ledger, batch, retries(ledger, batch))):
        if number % WINDOW == 0:
            keep()
        if reported is None:
            if not cancelled:  # torn: its shard runs again
                return None
            continue
        photos = reported.counting
        totals += Totals.of(photos)
        again += [key_digest(photo.key) for photo in photos if photo.transient]
        del again[MAX_AGAIN + 1 :]
        without += [digest(p.key, p.etag) for p in photos if not p.bytes_out]
        del without[MAX_WITHOUT_OUTPUT:]
    complete = len(again) <= MAX_AGAIN and totals.photos >= batch.photos and batch.planned
    return BatchOutcome(totals, complete, tuple(again), tuple(without))


def _is_left(ledger: Ledger, batch: Batch) -> bool:
    """Return whether no worker runs a shard of a cancelled batch any more: photos in hand are finished."""
    return not any(map(is_live, attempts_at(ledger, batch.id)))


def _is_listed(ledger: Ledger, batch: Batch) -> bool:
    """Return whether each shard has a report by its looks."""
    return batch.planned and ledger.reported_shards(batch.id) >= set(range(batch.shards))
