"""Plan a batch: stream a listing into shards, with a cursor to resume from, for libraries of any size."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from apf.exclusions import Exclusions
from apf.recipe import Recipe
from workers.core.clock import now
from workers.core.records import FORGOTTEN, Batch, PhotoRef
from workers.errors import LedgerError
from workers.ledger.batch_ledger import Ledger, all_of
from workers.ledger.forgotten import forgotten_among, forgotten_in
from workers.ledger.left_out import LeftOutCollector
from workers.store import AFTER_ALL, ObjectInfo, Store
from workers.store.media_types import estimated_megapixels, is_taken

#: A planner writes its cursor at least so often, with a small shard or none, where few of the listed keys are planned.
LONGEST_SILENCE_S = 5.0
#: Shards whose plans are written side by side, with one write of the batch after them: a store takes its time for each.
BUFFERED_SHARDS = 32


def in_fraction(key: str, schedule: str, fraction: float) -> bool:
    """Return whether the key lies in a schedule's fraction: always the same ones, and more for a larger fraction."""
    if fraction >= 1:
        return True
    digest = hashlib.sha256(f"{schedule}\0{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) < fraction * 2**64


def key_digest(key: str) -> str:
    """Return a short name for a photo, whatever its version."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def is_chosen(info: ObjectInfo, batch: Batch) -> bool:
    """Return whether the photo is in the batch's part, and new enough for it or to be run again."""
    wanted = is_since(info, batch.changed_since) or (batch.again and key_digest(info.key) in batch.again)
    return bool(wanted) and _in_part(info.key, batch)


def _in_part(key: str, batch: Batch) -> bool:
    return in_fraction(key, batch.schedule, batch.fraction) is (batch.part == "fraction")


def is_since(info: ObjectInfo, moment: str) -> bool:
    """Return whether the object is as it is since this moment or later; yes where one of the two is not known."""
    return not moment or info.last_modified is None or info.last_modified >= datetime.fromisoformat(moment)


#: The cost of a step on guides for a photo of a face or two, in megapixels of photos without: 40 take as long as five.
MEGAPIXELS_PER_STEP = 0.125


def _work(ref: PhotoRef, batch: Batch) -> float:
    """Return what a photo will cost, in megapixels: shards of equal work end within the same time."""
    return estimated_megapixels(ref) + (0 if batch.private else work_of_steps(batch.recipe))


def work_of_steps(recipe: Recipe) -> float:
    """Return what a photo costs for its steps, in megapixels of photos without."""
    return recipe.steps * min(2, len(recipe.guides)) * MEGAPIXELS_PER_STEP


@dataclass
class _Shard:
    """The shard being filled."""

    #: The last photo before it: no other lies between the two.
    after: str = ""
    photos: list[PhotoRef] = field(default_factory=list)
    megapixels: float = 0.0

    def add(self, ref: PhotoRef, megapixels: float) -> None:
        self.photos.append(ref)
        self.megapixels += megapixels

    def full(self, batch: Batch, coming: float) -> bool:
        if not self.photos:
            return False
        return len(self.photos) >= batch.max_shard_photos or self.megapixels + coming > batch.max_shard_megapixels


@dataclass
class _PlanBuffer:
    """Shards that are written together, the last of them being filled, and how far the listing is."""

    #: The last key that was listed.
    cursor: str
    shards: list[_Shard]
    photos: int = 0
    ignored: int = 0

    @classmethod
    def after(cls, cursor: str, photo: str) -> _PlanBuffer:
        """Return a new one; `photo` is the last that was planned."""
        return cls(cursor, [_Shard(photo)])

    def next(self) -> _PlanBuffer:
        """Return the one behind it."""
        return _PlanBuffer.after(self.cursor, self.last_photo)

    @property
    def last_photo(self) -> str:
        last = self.shards[-1]
        return last.photos[-1].key if last.photos else last.after

    def full(self, batch: Batch, coming: float) -> bool:
        """Return whether it has no room, and as many shards as all before it: the first are sent soon, then more and
        more.
        """
        return len(self.shards) >= min(BUFFERED_SHARDS, max(1, batch.shards)) and self.shards[-1].full(batch, coming)

    def add(self, ref: PhotoRef, megapixels: float, batch: Batch) -> None:
        if self.shards[-1].full(batch, megapixels):
            self.shards.append(_Shard(self.last_photo))
        self.shards[-1].add(ref, megapixels)
        self.photos += 1


class BatchTooLarge(LedgerError):
    """Raised when a source holds more photos than a batch may. The planned part is done all the same."""


class PlannerConflict(LedgerError):
    """Raised when another planner owns the batch: it took over after a silence, or was never gone."""


def plan(
    ledger: Ledger, batch: Batch, source: Store, *, planner: str, max_photos: int | None = None
) -> Iterator[Batch]:
    """List the source from the batch's cursor on; yields the batch anew after some shards, and now and then without.

    The plan objects are written before the batch that counts them: a planner that dies in between writes them again.

    Args:
        planner: names the caller. It takes the batch over, and gives up as soon as another has done so.

    Raises:
        PlannerConflict: another planner has written to the batch since.
        BatchTooLarge: the source has more than `max_photos` photos.
        PatternError: a pattern of the batch's is malformed.
    """
    exclusions = Exclusions(batch.exclude)
    batch = _written(ledger, batch.model_copy(update={"planner": planner, "note": ""}), taking=True)
    is_forgotten = forgotten_for(ledger, batch)
    left_outs = LeftOutCollector(ledger, batch, exclusions, lambda key: _in_part(key, batch) and not is_forgotten(key))
    buffer = _PlanBuffer.after(batch.cursor, batch.cursor)
    written = time.monotonic()
    for info in source.list(start_after=batch.cursor, left_out=left_outs.meet):
        if is_forgotten(info.key):  # named nowhere, also not as how far the listing is
            left_outs.passed_forgotten(info.key)
            continue
        is_photo = is_taken(info, private=batch.private)
        excluded = is_photo and exclusions.match(info.key)
        left_outs.passed(info.key, excluded=excluded)
        if time.monotonic() - written > LONGEST_SILENCE_S:
            batch, buffer = _close(ledger, batch, buffer, left_outs), buffer.next()
            yield batch
            written = time.monotonic()
        if not is_photo or excluded:
            buffer.ignored += 1
        elif is_chosen(info, batch):
            ref = PhotoRef(key=info.key, etag=info.etag, size=info.size)
            megapixels = _work(ref, batch)
            if max_photos is not None and batch.photos + buffer.photos >= max_photos:
                note = (
                    f"{batch.source} has more than {max_photos} photos, and the rest was left out: "
                    "name longer prefixes, or raise APF_MAX_BATCH_PHOTOS"
                )
                yield _close(ledger, batch.model_copy(update={"note": note}), buffer, left_outs, planned=True)
                raise BatchTooLarge(note)
            if buffer.full(batch, megapixels):
                batch, buffer = (
                    _close(ledger, batch, buffer, left_outs),
                    _PlanBuffer.after(buffer.cursor, buffer.last_photo),
                )
                yield batch
                written = time.monotonic()
            buffer.add(ref, megapixels, batch)
        buffer.cursor = info.key
    left_outs.passed(AFTER_ALL)
    if not (batch.photos + buffer.photos) and _is_whole(batch):
        kind = "gradient files" if batch.private else "photos"
        note = f"no {kind} in {batch.source}{', or all are excluded' if batch.exclude else ''}"
        batch = batch.model_copy(update={"note": note})
    yield _close(ledger, batch, buffer, left_outs, planned=True)


def forgotten_for(ledger: Ledger, batch: Batch) -> Callable[[str], bool]:
    """Return whether a key is forgotten, and not asked for all the same; as the marks are now."""
    marks = None if batch.include_forgotten else forgotten_in(ledger)
    return (lambda key: marks.name(key) in marks.every) if marks else lambda key: False


def _is_whole(batch: Batch) -> bool:
    """Return whether the batch is of all that the source has; a schedule's source may be filled later."""
    return not (batch.schedule or batch.changed_since) and batch.fraction >= 1 and batch.part == "fraction"


def note_planning_error(ledger: Ledger, batch_id: str, reason: str) -> None:
    """Have the batch say what keeps it from being planned; the next planner takes that away."""
    batch = ledger.read_batch(batch_id)
    note = f"cannot be planned now, and is tried again: {reason}"
    if not batch.planned and batch.note != note:
        ledger.write_batch(batch.model_copy(update={"note": note}))


def counted(batch: Batch) -> Batch:
    """Return a batch of named photos as it is to be written: its plans can be made of it at any time."""
    moment = now().isoformat(timespec="milliseconds")
    return batch.model_copy(
        update={"planned": True, "shards": len(cut_named(batch)), "photos": len(batch.named), "updated_at": moment}
    )


def plan_named(ledger: Ledger, batch: Batch) -> None:
    """Write the plans of the photos that a batch names."""
    for shard, photos in cut_named(batch).items():
        ledger.write_plan(batch.id, shard, photos)


def cut_named(batch: Batch) -> dict[int, list[PhotoRef]]:
    plans = cut(batch, batch.named, range(len(batch.named)))
    there = {shard: [ref for ref in photos if ref.key != FORGOTTEN] for shard, photos in plans.items()}
    return {shard: photos for shard, photos in there.items() if photos}


def cut(batch: Batch, refs: Sequence[PhotoRef], shards: range) -> dict[int, list[PhotoRef]]:
    """As `plan` cuts, but into these shards: the last takes what is left."""
    cut: dict[int, list[PhotoRef]] = {}
    filling = _Shard()
    for ref in refs:
        megapixels = _work(ref, batch)
        if filling.full(batch, megapixels) and len(cut) + 1 < len(shards):
            cut[shards[len(cut)]] = filling.photos
            filling = _Shard()
        filling.add(ref, megapixels)
    cut[shards[len(cut)]] = filling.photos
    return {shard: cut.get(shard, []) for shard in shards}


def _close(
    ledger: Ledger, batch: Batch, buffer: _PlanBuffer, left_outs: LeftOutCollector, *, planned: bool = False
) -> Batch:
    # Before the plans, too: a planner that lost the batch must not write over the plans of its owner.
    _check_planner(ledger, batch)
    buffer = _as_of_now(ledger, batch, buffer)
    shards = dict(enumerate((shard for shard in buffer.shards if shard.photos), start=batch.shards))
    done = all_of(lambda number: ledger.has_report(batch.id, number), list(shards))
    if any(done):  # a stale record: these shards were planned, and are done
        number = list(shards)[done.index(True)]
        raise PlannerConflict(f"shard {number} of batch {batch.id} is done already: another planner planned it")

    left_outs.write()

    def write(number: int) -> None:
        ledger.write_plan(batch.id, number, shards[number].photos, after=shards[number].after)

    all_of(write, list(shards))
    after = batch.model_copy(
        update={
            "planned": planned,
            "cursor": buffer.cursor,
            "shards": batch.shards + len(shards),
            "photos": batch.photos + buffer.photos,
            "ignored": batch.ignored + buffer.ignored,
        }
    )
    return _written(ledger, after)


def _as_of_now(ledger: Ledger, batch: Batch, buffer: _PlanBuffer) -> _PlanBuffer:
    """Return shards without what was forgotten since the planner began; whoever forgets waits for planners."""
    keys = {ref.key for shard in buffer.shards for ref in shard.photos} | {buffer.cursor} - {""}
    gone = frozenset() if batch.include_forgotten else forgotten_among(ledger, keys)
    if not gone:
        return buffer
    count, before = 0, ""
    for shard in buffer.shards:
        left = [ref for ref in shard.photos if ref.key not in gone]
        count += len(shard.photos) - len(left)
        shard.after = before if shard.after in gone else shard.after
        shard.photos = left
        before = left[-1].key if left else shard.after
    cursor = buffer.cursor if buffer.cursor not in gone else buffer.last_photo
    return replace(buffer, cursor=cursor, photos=buffer.photos - count)


def _written(ledger: Ledger, batch: Batch, *, taking: bool = False) -> Batch:
    if not taking:
        _check_planner(ledger, batch)
    stamped = batch.model_copy(update={"updated_at": now().isoformat(timespec="milliseconds")})
    ledger.write_batch(stamped)
    return stamped


def _check_planner(ledger: Ledger, batch: Batch) -> None:
    planner = ledger.read_batch(batch.id).planner
    if planner != batch.planner:
        raise PlannerConflict(f"batch {batch.id} is planned by {planner} now: `apf status --watch` follows it")
