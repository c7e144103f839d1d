"""Find what became of one photo of a batch, without reading all of its reports."""

from __future__ import annotations

from typing import Literal

from workers.core.records import Batch, PhotoReport
from workers.ledger.batch_ledger import Ledger


def find_photo(ledger: Ledger, batch: Batch, key: str) -> PhotoReport | Literal["pending"] | None:
    """Return a photo's report; "pending" while its shard has none, None where no plan holds it.

    Plans hold a listing's photos in its order, so that the photo's shard is found by halving; only those of retries are
    looked at one by one.

    Raises:
        LedgerError: a plan cannot be read (`apf resume` mends it).
        StoreError: the store refuses.
    """
    first_retry = batch.shards if batch.first_retry is None else batch.first_retry
    # The last try of a photo is the one that counts.
    for shard in [*range(batch.shards - 1, first_retry - 1, -1), *_shard_of(ledger, batch.id, first_retry, key)]:
        if any(ref.key == key for ref in ledger.read_plan(batch.id, shard)):
            report = ledger.read_report(batch.id, shard)
            return "pending" if report is None else next((one for one in report.photos if one.key == key), None)
    return None


def _shard_of(ledger: Ledger, batch_id: str, shards: int, key: str) -> list[int]:
    """Return the one of the first shards that can hold the key: the last that begins with no later one."""
    wanted = _order(key)
    low, high = 0, shards
    while low < high:
        middle = shard = (low + high) // 2
        # A plan that was made anew is empty where its photos are gone.
        while not (photos := ledger.read_plan(batch_id, shard)) and shard > low:
            shard -= 1
        if photos and _order(photos[0].key) > wanted:
            high = shard
        else:
            low = middle + 1
    last = next((shard for shard in range(low - 1, -1, -1) if ledger.read_plan(batch_id, shard)), None)
    return [] if last is None else [last]


def _order(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")
