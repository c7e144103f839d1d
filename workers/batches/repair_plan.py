"""Repair plans: count those that were written and not counted, rebuild torn ones from their neighbours."""

from __future__ import annotations

from itertools import takewhile

from apf.exclusions import Exclusions
from workers.batches.plan import cut, cut_named, forgotten_for, is_chosen
from workers.core.records import Batch, PhotoRef
from workers.errors import LedgerError, NewerRecord
from workers.ledger.batch_ledger import Ledger
from workers.store import Store
from workers.store.media_types import is_taken


def caught_up(ledger: Ledger, batch: Batch) -> Batch:
    """Return the batch as its plans say, where its record lags behind them; not written.

    It does where a planner died between the two, or where the batch was created a second time by a caller
    that had seen none.
    """
    while batch.first_retry is None and (keys := _keys(ledger, batch, batch.shards)):
        after = ledger.listed_after(batch.id, batch.shards) or ""
        # Else it is left from an earlier planner, whose shards were others, and photos would lie between the two.
        if not after.encode() <= batch.cursor.encode() < keys[0].encode():
            break
        more = {"shards": batch.shards + 1, "photos": batch.photos + len(keys), "cursor": keys[-1]}
        batch = batch.model_copy(update=more)
    return batch


def planned_anew(ledger: Ledger, batch: Batch, shard: int, source: Store) -> dict[int, list[PhotoRef]]:
    """Return the photos of a shard with a torn plan, and of all torn ones beside it, listed again between those around
    them.

    They are cut into shards as before. A shard that is reported needs no plan any more: its report says its photos.
    """
    if batch.named:
        return {shard: cut_named(batch).get(shard, [])}
    end = batch.shards if batch.first_retry is None else batch.first_retry
    first, last = shard, shard
    while first > 0 and _keys(ledger, batch, first - 1) is None:
        first -= 1
    while last + 1 < end and _keys(ledger, batch, last + 1) is None:
        last += 1
    below = (keys[-1] for number in range(first - 1, -1, -1) if (keys := _keys(ledger, batch, number)))
    # Up to the next plan's first photo, or to where planning has come.
    above = (keys[0] for number in range(last + 1, end) if (keys := _keys(ledger, batch, number)))
    stop = next(above, batch.cursor + "\0").encode()
    listed = takewhile(lambda info: info.key.encode() < stop, source.list(start_after=next(below, "")))
    found = (info for info in listed if is_taken(info, private=batch.private) and is_chosen(info, batch))
    exclusions = Exclusions(batch.exclude)
    is_forgotten = forgotten_for(ledger, batch)
    photos = (info for info in found if not exclusions.match(info.key) and not is_forgotten(info.key))
    refs = [PhotoRef(key=info.key, etag=info.etag, size=info.size) for info in photos]
    return cut(batch, refs, range(first, last + 1))


def _keys(ledger: Ledger, batch: Batch, shard: int) -> list[str] | None:
    """Return the keys of a shard's photos, ascending; None where neither its plan nor its report can be read."""
    try:
        return [ref.key for ref in ledger.read_plan(batch.id, shard)]
    except NewerRecord:
        raise  # it is whole, and not to be written over
    except LedgerError:
        report = ledger.read_report(batch.id, shard)
        return None if report is None else sorted((photo.key for photo in report.photos), key=str.encode)
