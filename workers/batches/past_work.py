"""Read from a ledger how long photos took, and how many faces they had."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from apf.recipe import Recipe
from workers.core.records import Outcome
from workers.errors import LedgerError
from workers.ledger.batch_ledger import Ledger, all_of

#: The newest batches that are looked at, and reports of all of them together.
BATCHES, REPORTS = 20, 64


@dataclass(frozen=True)
class Past:
    """Of photos that were worked on; None where there are none."""

    photos: int = 0
    faces_a_photo: float | None = None
    seconds_a_photo: float | None = None


def past_work(ledger: Ledger, recipe: Recipe) -> Past:
    """Return it of the newest reports; seconds are those with this very recipe. Raises StoreError."""
    photos = faces = timed = reports_left = 0
    seconds, reports_left = 0.0, REPORTS
    for batch_id in list(reversed(ledger.batch_ids()))[:BATCHES]:
        try:
            batch = ledger.read_batch(batch_id)
        except LedgerError:
            continue
        shards = range(max(0, batch.shards - reports_left), batch.shards)
        for report in filter(None, all_of(partial(ledger.read_report, batch_id), shards)):
            reports_left -= 1
            worked = [p for p in report.photos if p.outcome in (Outcome.protected, Outcome.no_face)]
            photos += len(worked)
            faces += sum(photo.faces for photo in worked)
            # A shard with photos that were passed over tells nothing of the others' time.
            if batch.recipe.id == recipe.id and len(worked) == len(report.photos):
                timed += len(worked)
                seconds += report.wall_seconds
    return Past(photos, faces / photos if photos else None, seconds / timed if timed else None)
