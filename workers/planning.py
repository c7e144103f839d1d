"""From a listing to shards: streamed, with a cursor, so that a library of any size can be planned and gone on with."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import takewhile

from workers.attempts import now
from workers.errors import LedgerError, NewerRecord
from workers.job import Batch, PhotoRef
from workers.kinds import estimated_megapixels, is_taken
from workers.ledger import Ledger
from workers.store import ObjectInfo, Store

#: A planner writes its cursor at least so often, with a small shard or none, where few of the listed keys are planned.
LONGEST_SILENCE_S = 5.0


def in_fraction(key: str, schedule: str, fraction: float) -> bool:
    """Whether the key lies in a schedule's fraction: always the same ones, and more for a larger fraction."""
    if fraction >= 1:
        return True
    digest = hashlib.sha256(f"{schedule}\0{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) < fraction * 2**64


def key_digest(key: str) -> str:
    """A short name for a photo, whatever its version."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def is_chosen(info: ObjectInfo, batch: Batch) -> bool:
    """Whether the photo is in the batch's part, and new enough for it or to be run again."""
    wanted = is_since(info, batch.changed_since) or (batch.again and key_digest(info.key) in batch.again)
    return bool(wanted) and in_fraction(info.key, batch.schedule, batch.fraction) is (batch.part == "fraction")


def is_since(info: ObjectInfo, moment: str) -> bool:
    """Whether the object is as it is since this moment or later; yes where one of the two is not known."""
    return not moment or info.last_modified is None or info.last_modified >= datetime.fromisoformat(moment)


@dataclass
class _Shard:
    """The shard being filled, and the listing's state behind it."""

    photos: list[PhotoRef] = field(default_factory=list)
    megapixels: float = 0.0
    ignored: int = 0

    def add(self, ref: PhotoRef, megapixels: float) -> None:
        self.photos.append(ref)
        self.megapixels += megapixels

    def full(self, batch: Batch, coming: float) -> bool:
        if not self.photos:
            return False
        return len(self.photos) >= batch.max_shard_photos or self.megapixels + coming > batch.max_shard_megapixels


class BatchTooLarge(LedgerError):
    """Raised when a source holds more photos than a batch may. What is planned already is done all the same."""


class Taken(LedgerError):
    """Raised when somebody else plans the batch: they took over after a silence, or were never gone."""


def plan(
    ledger: Ledger, batch: Batch, source: Store, *, planner: str, max_photos: int | None = None
) -> Iterator[Batch]:
    """List the source from the batch's cursor on; yields the batch anew after each shard, and now and then without.

    The plan object is written before the batch that counts it: a planner that dies in between writes it again.

    Args:
        planner: names the caller. It takes the batch over, and gives up as soon as somebody else has done so.

    Raises:
        Taken: another planner has written to the batch since.
        BatchTooLarge: the source has more than `max_photos` photos.
    """
    batch = _written(ledger, batch.model_copy(update={"planner": planner, "note": ""}), taking=True)
    filling = _Shard()
    cursor = batch.cursor
    written = time.monotonic()
    for info in source.list(start_after=cursor):
        if time.monotonic() - written > LONGEST_SILENCE_S:
            batch, filling = _close(ledger, batch, filling, cursor), _Shard()
            yield batch
            written = time.monotonic()
        if not is_taken(info, private=batch.private):
            filling.ignored += 1
            cursor = info.key
            continue
        if not is_chosen(info, batch):
            cursor = info.key
            continue
        ref = PhotoRef(key=info.key, etag=info.etag, size=info.size)
        megapixels = estimated_megapixels(ref)
        if max_photos is not None and batch.photos + len(filling.photos) >= max_photos:
            note = (
                f"{batch.source} has more than {max_photos} photos, and the rest was left out: "
                "name longer prefixes, or raise APF_MAX_BATCH_PHOTOS"
            )
            yield _close(ledger, batch.model_copy(update={"note": note}), filling, cursor, planned=True)
            raise BatchTooLarge(note)
        if filling.full(batch, megapixels):
            batch, filling = _close(ledger, batch, filling, cursor), _Shard()
            yield batch
            written = time.monotonic()
        filling.add(ref, megapixels)
        cursor = info.key
    batch = _close(ledger, batch, filling, cursor, planned=True)
    yield batch


def note_trouble(ledger: Ledger, batch_id: str, reason: str) -> None:
    """Have the batch say what keeps it from being planned; the next planner takes that away."""
    batch = ledger.read_batch(batch_id)
    note = f"cannot be planned now, and is tried again: {reason}"
    if not batch.planned and batch.note != note:
        ledger.write_batch(batch.model_copy(update={"note": note}))


def counted(batch: Batch) -> Batch:
    """A batch of named photos as it is to be written: its plans can be made of it at any time."""
    moment = now().isoformat(timespec="milliseconds")
    return batch.model_copy(
        update={"planned": True, "shards": len(_cut_named(batch)), "photos": len(batch.named), "updated_at": moment}
    )


def plan_named(ledger: Ledger, batch: Batch) -> None:
    """Write the plans of the photos that a batch names."""
    for shard, photos in _cut_named(batch).items():
        ledger.write_plan(batch.id, shard, photos)


def caught_up(ledger: Ledger, batch: Batch) -> Batch:
    """The batch as its plans say, where its record lags behind them; not written.

    It does where a planner died between the two, or where the batch was created a second time by somebody who had
    seen none.
    """
    while batch.first_retry is None and (keys := _keys(ledger, batch, batch.shards)):
        if keys[-1].encode() <= batch.cursor.encode():
            break
        more = {"shards": batch.shards + 1, "photos": batch.photos + len(keys), "cursor": keys[-1]}
        batch = batch.model_copy(update=more)
    return batch


def planned_anew(ledger: Ledger, batch: Batch, shard: int, source: Store) -> dict[int, list[PhotoRef]]:
    """The photos of a shard with a torn plan, and of all torn ones beside it, listed again between those around them.

    They are cut into shards as before. A shard that is reported needs no plan any more: its report says its photos.
    """
    if batch.named:
        return {shard: _cut_named(batch)[shard]}
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
    photos = (info for info in listed if is_taken(info, private=batch.private) and is_chosen(info, batch))
    refs = [PhotoRef(key=info.key, etag=info.etag, size=info.size) for info in photos]
    return _cut(batch, refs, range(first, last + 1))


def _cut_named(batch: Batch) -> dict[int, list[PhotoRef]]:
    plans = _cut(batch, batch.named, range(len(batch.named)))
    return {shard: photos for shard, photos in plans.items() if photos}


def _cut(batch: Batch, refs: Sequence[PhotoRef], shards: range) -> dict[int, list[PhotoRef]]:
    """As `plan` cuts, but into these shards: the last takes what is left."""
    cut: dict[int, list[PhotoRef]] = {}
    filling = _Shard()
    for ref in refs:
        megapixels = estimated_megapixels(ref)
        if filling.full(batch, megapixels) and len(cut) + 1 < len(shards):
            cut[shards[len(cut)]] = filling.photos
            filling = _Shard()
        filling.add(ref, megapixels)
    cut[shards[len(cut)]] = filling.photos
    return {shard: cut.get(shard, []) for shard in shards}


def _keys(ledger: Ledger, batch: Batch, shard: int) -> list[str] | None:
    """The keys of a shard's photos, ascending; None where neither its plan nor its report can be read."""
    try:
        return [ref.key for ref in ledger.read_plan(batch.id, shard)]
    except NewerRecord:
        raise  # it is whole, and not to be written over
    except LedgerError:
        report = ledger.read_report(batch.id, shard)
        return None if report is None else sorted((photo.key for photo in report.photos), key=str.encode)


def _close(ledger: Ledger, batch: Batch, filling: _Shard, cursor: str, *, planned: bool = False) -> Batch:
    # Before the plan, too: whoever lost the batch must not write over the plans of who has it.
    _check_planner(ledger, batch)
    if filling.photos:
        if ledger.has_report(batch.id, batch.shards):  # a stale record: these shards were planned, and are done
            raise Taken(f"shard {batch.shards} of batch {batch.id} is done already: somebody else planned it")
        ledger.write_plan(batch.id, batch.shards, filling.photos)
    after = batch.model_copy(
        update={
            "planned": planned,
            "cursor": cursor,
            "shards": batch.shards + bool(filling.photos),
            "photos": batch.photos + len(filling.photos),
            "ignored": batch.ignored + filling.ignored,
        }
    )
    return _written(ledger, after)


def _written(ledger: Ledger, batch: Batch, *, taking: bool = False) -> Batch:
    if not taking:
        _check_planner(ledger, batch)
    stamped = batch.model_copy(update={"updated_at": now().isoformat(timespec="milliseconds")})
    ledger.write_batch(stamped)
    return stamped


def _check_planner(ledger: Ledger, batch: Batch) -> None:
    planner = ledger.read_batch(batch.id).planner
    if planner != batch.planner:
        raise Taken(f"batch {batch.id} is planned by {planner} now: `apf status --watch` follows it")
