"""Stream the reports of a batch that has ended, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from workers.core.records import Batch, PhotoReport, ShardReport
from workers.errors import LedgerError
from workers.ledger.batch_ledger import Ledger, all_of

#: Reports that are held at once.
WINDOW = 64


@dataclass(frozen=True)
class Reported:
    """A shard's report, and which of its photos count: not those whose outcome a retry's stands in for."""

    report: ShardReport
    counting: tuple[PhotoReport, ...]


def reports(ledger: Ledger, batch: Batch, retried_by: dict[str, int]) -> Iterator[Reported | None]:
    """One for each shard, by number, ascending; None for one that is not reported. `retried_by` is `retries`'s."""
    for first in range(0, batch.shards, WINDOW):
        numbers = range(first, min(first + WINDOW, batch.shards))
        for report in all_of(partial(ledger.read_report, batch.id), numbers):
            if report is None:
                yield None
            else:
                counting = (photo for photo in report.photos if report.shard >= retried_by.get(photo.key, 0))
                yield Reported(report, tuple(counting))


def retries(ledger: Ledger, batch: Batch) -> dict[str, int]:
    """Return the last shard that repeats a photo, by key; empty for a batch without retries."""
    found: dict[str, int] = {}
    for shard in range(batch.first_retry if batch.first_retry is not None else batch.shards, batch.shards):
        with suppress(LedgerError):  # neither is left: the shard is not done
            found |= dict.fromkeys(photos_of(ledger, batch.id, shard), shard)
    return found


def photos_of(ledger: Ledger, batch_id: str, shard: int) -> list[str]:
    """Return the keys of a shard's photos, by its plan, or by its report where the plan is torn.

    Raises:
        LedgerError: neither can be read.
    """
    try:
        return [photo.key for photo in ledger.read_plan(batch_id, shard)]
    except LedgerError:
        if report := ledger.read_report(batch_id, shard):
            return [photo.key for photo in report.photos]
        raise
