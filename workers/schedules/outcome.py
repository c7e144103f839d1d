"""How a run ended: read from its batches' reports, one after the other, so that a batch of any size fits in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from workers.attempts import attempts_at, is_live
from workers.errors import LedgerError
from workers.job import Batch, PhotoReport, ShardReport, Totals
from workers.ledger import Ledger, read_all
from workers.planning import key_digest

#: Reports that are held at once.
WINDOW = 64

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
    """A short name for this version of a photo."""
    return hashlib.sha256(f"{key}\0{etag}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def is_over(ledger: Ledger, batch: Batch) -> bool:
    """Whether nothing more comes of the batch by itself."""
    if ledger.stopped(batch.id) == "cancelled":
        return _is_left(ledger, batch)
    return _is_listed(ledger, batch) and not ledger.open_shards(batch)


def outcome_of(ledger: Ledger, batch: Batch, keep: Callable[[], None] = lambda: None) -> BatchOutcome | None:
    """What became of a batch's photos; None unless `is_over`. Each report is read once.

    Args:
        keep: called now and then.
    """
    cancelled = ledger.stopped(batch.id) == "cancelled"
    if not (_is_left(ledger, batch) if cancelled else _is_listed(ledger, batch)):
        return None
    totals, without, again = Totals(), list[str](), list[str]()
    retried_by = _retried_by(ledger, batch, keep)
    for first in range(0, batch.shards, WINDOW):
        keep()
        numbers = range(first, min(first + WINDOW, batch.shards))
        reports = read_all(partial(ledger.read_report, batch.id), numbers)
        if None in reports and not cancelled:  # torn: its shard runs again
            return None
        photos = [photo for report in reports if report for photo in _latest(report, retried_by)]
        totals += Totals.of(photos)
        again += [key_digest(photo.key) for photo in photos if photo.transient]
        del again[MAX_AGAIN + 1 :]
        without += [digest(p.key, p.etag) for p in photos if not p.bytes_out]
        del without[MAX_WITHOUT_OUTPUT:]
    complete = len(again) <= MAX_AGAIN and totals.photos >= batch.photos and batch.planned
    return BatchOutcome(totals, complete, tuple(again), tuple(without))


def _is_left(ledger: Ledger, batch: Batch) -> bool:
    """Whether nobody is at a cancelled batch any more: workers finish the photos in hand."""
    return not any(map(is_live, attempts_at(ledger, batch.id)))


def _is_listed(ledger: Ledger, batch: Batch) -> bool:
    """Whether each shard has a report by its looks."""
    return batch.planned and ledger.reported_shards(batch.id) >= set(range(batch.shards))


def _latest(report: ShardReport, retried_by: Mapping[str, int]) -> list[PhotoReport]:
    """The report's photos, but for those that a later shard repeats: its outcome stands in for the earlier one."""
    return [photo for photo in report.photos if report.shard >= retried_by.get(photo.key, 0)]


def _retried_by(ledger: Ledger, batch: Batch, keep: Callable[[], None]) -> dict[str, int]:
    """The last shard that repeats a photo, by key."""
    found: dict[str, int] = {}
    for shard in range(batch.first_retry if batch.first_retry is not None else batch.shards, batch.shards):
        keep()
        try:
            found |= {ref.key: shard for ref in ledger.read_plan(batch.id, shard)}
        except LedgerError:  # torn after it was reported
            report = ledger.read_report(batch.id, shard)
            found |= {photo.key: shard for photo in report.photos} if report else {}
    return found
