"""Progress of an open batch and the moment it last moved, without reading its reports."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from workers.core.clock import now
from workers.core.records import Batch, Lane
from workers.ledger.batch_ledger import Ledger
from workers.ledger.leases import attempts_at, is_live

#: By the batch's URL: shards planned and reported at the last look, and when that last changed.
Memory = MutableMapping[str, tuple[tuple[int, int], datetime]]


#: "reported": done, and still registered as open.
State = Literal["running", "reported", "paused", "cancelled"]


@dataclass(frozen=True)
class BatchProgress:
    """Where a batch stands."""

    lane: Lane
    state: State
    #: Planned, and without a report.
    open_shards: int
    #: In them, by the mean of the batch's shards.
    photos: float
    #: Seconds since its planner, a report or a worker was last seen at it.
    idle_s: float


def batch_progress(ledger: Ledger, batch_id: str, memory: Memory) -> BatchProgress:
    """Where a batch stands: four small requests, a list of its reports, one of its tries, and a request for each try.

    Raises:
        LedgerError: its record is missing or damaged.
        StoreError: the store refuses.
    """
    batch = ledger.read_batch(batch_id)
    open_shards = len(set(range(batch.shards)) - ledger.reported_shards(batch_id))
    state = ledger.stopped(batch_id) or ("running" if open_shards or not batch.planned else "reported")
    return BatchProgress(
        lane=batch.lane,
        state=state,
        open_shards=open_shards,
        photos=batch.photos * open_shards / max(1, batch.shards),
        idle_s=(now() - _progressed(ledger, batch, open_shards, memory)).total_seconds() if state == "running" else 0.0,
    )


def _progressed(ledger: Ledger, batch: Batch, open_shards: int, memory: Memory) -> datetime:
    """Return the newest sign of life: planning, a worker, or a report since the last look."""
    seen = [datetime.fromisoformat(batch.updated_at or batch.created_at)]
    seen += [datetime.fromisoformat(each.seen_at) for each in attempts_at(ledger, batch.id) if is_live(each)]
    url, counts = ledger.batch_url(batch.id), (batch.shards, open_shards)
    before, changed_at = memory.get(url, (counts, seen[0]))
    memory[url] = (counts, changed_at if before == counts else now())
    return max(*seen, memory[url][1])
