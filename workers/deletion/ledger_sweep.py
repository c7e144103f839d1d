"""Sweep photos out of one ledger: each object is read once, and written anew where it names one."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from workers.batches.rescue import PLANNER_LEASE_S
from workers.broker.event_marks import Submitted
from workers.config.settings import Settings
from workers.core.clock import now
from workers.core.records import FORGOTTEN, Attempt, Batch, parse
from workers.errors import Changed, LedgerError, NewerRecord, NoConditions, NotFound, StoreError
from workers.ledger.batch_ledger import Ledger, all_of
from workers.ledger.callback_state import owes_callback
from workers.ledger.forgotten import FOLDER
from workers.ledger.leases import is_live
from workers.ledger.open_batches import unregister
from workers.ledger.redact import Names, redacted
from workers.ledger.report_cache import open_shards
from workers.store import Blob

log = logging.getLogger(__name__)

#: Objects that are read side by side, and then looked at.
WINDOW = 256
TYPES = {"jsonl": "application/jsonl", "json": "application/json"}

#: Of a record's fields.
Change = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass
class Swept:
    """What a sweep found, and took away."""

    records: set[str] = field(default_factory=set)
    batches: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    #: Batches that somebody is at who began before.
    busy: set[str] = field(default_factory=set)


class LedgerSweep:
    """Takes photos out of one ledger. All methods raise StoreError."""

    def __init__(self, ledger: Ledger, keys: Sequence[str], settings: Settings, *, change: bool = True) -> None:
        self._ledger, self._settings, self._change = ledger, settings, change
        self._names = Names.of(keys)
        #: (key, ETag) of all versions that were met.
        self.versions: set[tuple[str, str]] = set()
        self.submitted: set[Submitted] = set()

    def run(self, began: datetime, batches: Collection[str] | None = None) -> Swept:
        """Look at every object of the ledger, or of these batches, and mend those that name one of the photos.

        Args:
            began: the moment from which on workers and planners know that the photos are forgotten.
        """
        found = Swept()
        planning: set[str] = set()
        emptied: set[str] = set()
        by_batch: dict[str, list[str]] = defaultdict(list)
        for key, data in self._objects(batches):
            batch_id = self._batch_of(key)
            # Of a batch, its tries are listed before its reports: one that is not there any more has its report here.
            if self._is_being_planned(key, data):
                planning.add(batch_id)
            elif self._is_try_before(key, data, began):
                found.busy.add(batch_id)
            if key.endswith("/batch.json") and FORGOTTEN.encode() in data:
                emptied.add(batch_id)
            if self._is_named(key, data, found):
                by_batch[batch_id].append(key)
        for batch_id, objects in by_batch.items():
            found.records |= {f"{self._ledger.url} {key}" for key in objects}
            if self._change and batch_id not in planning:  # its planner has the record in hand, and would undo it
                self._mend(batch_id, objects, found)
        for batch_id in {*by_batch, *emptied} - planning - {""} if self._change else ():
            self._remove_if_empty(batch_id, found)
        found.busy |= planning
        return found

    def is_busy(self, batch_id: str, began: datetime) -> bool:
        """Return whether a worker or planner is at a batch who began before."""
        folder = self._ledger.key(batch_id, "attempts", "")
        tries = [info.key for info in self._ledger.store.list(folder)]
        objects = [(key, self._ledger.read(key)) for key in [*tries, self._ledger.key(batch_id, "batch.json")]]
        there = [(key, data) for key, data in objects if data]
        return any(self._is_try_before(key, data, began) or self._is_being_planned(key, data) for key, data in there)

    def _is_try_before(self, key: str, data: bytes, began: datetime) -> bool:
        if "/attempts/" not in key:
            return False
        with suppress(LedgerError):  # torn
            attempt = parse(Attempt, data, LedgerError, key)
            return is_live(attempt) and datetime.fromisoformat(attempt.started_at) <= began
        return False

    def _is_being_planned(self, key: str, data: bytes) -> bool:
        if not key.endswith("/batch.json"):
            return False
        try:
            batch = parse(Batch, data, LedgerError, key)
        except LedgerError:
            return False
        if batch.planned or not batch.planner or self._ledger.stopped(batch.id):
            return False
        wrote_at = datetime.fromisoformat(batch.updated_at or batch.created_at)
        return now() - wrote_at < timedelta(seconds=PLANNER_LEASE_S)

    def _objects(self, batches: Collection[str] | None) -> Iterator[tuple[str, bytes]]:
        folder = f"{self._ledger.prefix}/"
        passed = (f"{folder}{FOLDER}/", f"{folder}open/", f"{folder}schedules/")
        folders = [folder] if batches is None else [self._ledger.key(batch_id, "") for batch_id in batches]
        listed = (info.key for one in folders for info in self._ledger.store.list(one))
        wanted = (key for key in listed if not key.startswith(passed))
        while some := list(islice(wanted, WINDOW)):
            for key, data in zip(some, all_of(self._ledger.read, some), strict=True):
                if data:
                    yield key, data

    def _is_named(self, key: str, data: bytes, found: Swept) -> bool:
        try:
            return redacted(key, data, self._names) != data
        except NewerRecord as error:
            found.left.add(str(error))
            return False

    def _batch_of(self, key: str) -> str:
        folder, _, rest = key.removeprefix(f"{self._ledger.prefix}/").partition("/")
        return rest.partition("/")[0] if folder == "batches" else ""

    def _mend(self, batch_id: str, objects: list[str], found: Swept) -> None:
        record = self._ledger.key(batch_id, "batch.json") if batch_id else ""
        if batch_id:
            self._mend_batch(batch_id, self._note_versions(objects), found)
        for key in objects:
            if key != record:
                self._rewrite(key)
        if batch_id:
            self._ledger.store.delete(self._ledger.key(batch_id, "digest.jsonl"))  # of reports as they were

    def _note_versions(self, objects: Iterable[str]) -> dict[int, int]:
        """Note the photos' ETags; returns how many of them the plan of each shard names."""
        planned: dict[int, int] = {}
        for key in objects:
            refs = [ref for ref in _refs(self._ledger.read(key)) if ref["key"] in self._names.keys]
            self.versions |= {(ref["key"], str(ref.get("etag", ""))) for ref in refs}
            if "/plan/" in key:
                planned[_shard(key)] = len(refs)
        return planned

    def _mend_batch(self, batch_id: str, planned: dict[int, int], found: Swept) -> None:
        """Before the plans: a record that counts too few photos does no harm, one that counts too many is never
        complete.
        """
        try:
            batch = self._ledger.read_batch(batch_id)
        except LedgerError as error:
            if self._ledger.has_batch(batch_id):  # else it was taken back, or is being made
                found.left.add(str(error))
            return
        self.submitted.add((batch.source, batch.recipe.id, batch.no_face, batch.on_weak))
        first_retry = batch.shards if batch.first_retry is None else batch.first_retry
        gone = sum(count for shard, count in planned.items() if shard < first_retry)
        url = batch.callback or ""
        names_url = self._names.reworded(url) != url
        owed = names_url and owes_callback(self._ledger, batch) and self._ledger.stopped(batch_id) != "cancelled"
        if owed:
            found.left.add(f"batch {batch_id} has yet to call back a URL that names a photo: run it again after that")
        cursor = self._last_planned(batch) if batch.cursor in self._names.keys else ""

        def change(fields: dict[str, Any]) -> dict[str, Any]:
            callback = {"callback": self._names.reworded(url)} if names_url and not owed else {}
            return {
                **fields,
                "photos": max(0, fields["photos"] - gone),
                "cursor": fields["cursor"] or cursor,
            } | callback

        self._rewrite(self._ledger.key(batch_id, "batch.json"), change)

    def _last_planned(self, batch: Batch) -> str:
        """Return the last planned photo that stays: a listing goes on behind it."""
        for shard in range(batch.shards - 1, -1, -1):
            refs = _refs(self._ledger.read(self._ledger.key(batch.id, "plan", f"{shard:05}.jsonl")))
            keys = [ref["key"] for ref in refs if ref["key"] not in self._names.keys]
            if keys:
                return str(keys[-1])
        return ""

    def _rewrite(self, key: str, change: Change | None = None) -> None:
        """Write an object without the photos, over the version that was read, where the store can tell."""
        for _ in range(10):
            try:
                blob = self._ledger.store.get(key)
            except NotFound:
                return
            data = redacted(key, blob.data, self._names)
            if data is None:  # torn: it counts as none
                self._ledger.store.delete(key)
                return
            if change:
                data = json.dumps(change(json.loads(data)), ensure_ascii=False, indent=1).encode()
            if data == blob.data or self._put(key, data, blob):
                return
        raise LedgerError(f"{key} is written again and again by somebody else: run the same command again")

    def _put(self, key: str, data: bytes, over: Blob) -> bool:
        content_type = TYPES.get(key.rsplit(".", 1)[-1], "application/octet-stream")
        try:
            self._ledger.store.put(key, data, content_type=content_type, over=over.info.etag)
        except Changed:
            return False
        except StoreError as error:
            if not isinstance(error, NoConditions) and type(error) is not StoreError:
                raise
            self._ledger.store.put(key, data, content_type=content_type)
        return True

    def _remove_if_empty(self, batch_id: str, found: Swept) -> None:
        """Take away a batch that named its photos, of which none is left, once nobody waits for it."""
        try:
            batch = self._ledger.read_batch(batch_id)
        except LedgerError:
            return
        if not batch.named or any(ref.key != FORGOTTEN for ref in batch.named):
            return
        if open_shards(self._ledger, batch) or owes_callback(self._ledger, batch):
            return
        self._ledger.forget_batch(batch_id)
        self._ledger.sweep(batch_id)
        unregister(self._ledger, batch, self._settings)
        found.batches.add(batch_id)


def _refs(data: bytes | None) -> list[dict[str, Any]]:
    """Return the records with a key in an object of lines, or in a batch's record; none where it is torn."""
    found: list[Any] = []
    for text in (data or b"").split(b"\n"):
        try:
            found.append(json.loads(text))
        except ValueError:
            continue
    if not found and data:
        try:
            found = json.loads(data).get("named", [])
        except (ValueError, AttributeError):
            return []
    return [one for one in found if isinstance(one, dict) and isinstance(one.get("key"), str)]


def _shard(plan: str) -> int:
    return int(plan.rsplit("/", 1)[-1].partition(".")[0])
