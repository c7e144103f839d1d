"""Delete the ledger's records of batches that ended long ago (APF_LEDGER_KEEP), once a day, in the periodic pass.

Outputs stay, and their metadata still say what made them. A batch is kept as long as anything is to be done for it:
shards or planning, a callback that is owed, a schedule that has yet to read its outcome.

    <root>/.apf/pruned.json    when a pass last began; the root is that of open batches (`workers.ledger.open_batches`)
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta

from pydantic import BaseModel

from workers.batches.create import find_ledger
from workers.config.settings import Settings
from workers.core.clock import now
from workers.core.records import Batch, Moment, parse
from workers.errors import LedgerError, NotFound, StoreError, WorkerError
from workers.ledger.audit import note_act
from workers.ledger.batch_ledger import Ledger, open_ledger
from workers.ledger.callback_state import owes_callback
from workers.ledger.leases import attempts_at, is_live
from workers.ledger.open_batches import is_registered, open_batches, unregister
from workers.ledger.report_cache import open_shards
from workers.schedules.repository import all_schedules
from workers.store import Store, open_store

log = logging.getLogger(__name__)

EVERY = timedelta(days=1)
RECORD = ".apf/pruned.json"
#: In the audit log.
ACTOR = "reconcile"


class _Pass(BaseModel):
    at: Moment


def prune_ended(urls: Iterable[str], settings: Settings) -> int:
    """Delete what ended too long ago in all ledgers that are known, where that is due; returns how many batches.

    Known are all below APF_LEDGER_URL; without, those at these URLs, of open batches and of schedules. What cannot be
    read is logged and left for the next day.

    Args:
        urls: as those of `workers.batches.rescue.reconcile`.
    """
    if settings.ledger_keep is None:
        return 0
    count = 0
    for url in urls:
        try:
            root = open_store(url, s3=settings.s3)
            if not _is_due(root):
                continue
            for ledger in _ledgers(root, settings):
                count += prune(ledger, settings.ledger_keep, settings)
        except WorkerError as error:
            log.warning("ended batches below %s are deleted another day: %s", url, error)
    return count


def prune(ledger: Ledger, keep_days: float, settings: Settings) -> int:
    """Delete the batches of one ledger that ended so many days ago; returns how many. Raises StoreError."""
    before = now() - timedelta(days=keep_days)
    awaited = _awaited(settings)
    count = 0
    for batch_id in ledger.batch_ids():
        try:
            gone = batch_id not in awaited and _prune(ledger, batch_id, before, settings)
        except LedgerError as error:  # nobody may say that nothing is to be done for it
            log.warning("batch %s is kept: %s", batch_id, error)
            continue
        count += gone
    if count:
        note_act(ledger, ACTOR, "delete ended batches", batches=count, keep_days=keep_days)
    return count


def _prune(ledger: Ledger, batch_id: str, before: datetime, settings: Settings) -> bool:
    batch = ledger.read_batch(batch_id) if ledger.has_batch(batch_id) else None
    if batch and datetime.fromisoformat(batch.created_at) > before:
        return False
    # The digest is written by whoever looks, long after the end.
    times = [
        info.last_modified
        for info in ledger.store.list(ledger.key(batch_id, ""))
        if not info.key.endswith("/digest.jsonl")
    ]
    if any(moment is None or moment > before for moment in times):
        return False
    if batch is not None:
        if not _is_over(ledger, batch, settings):
            return False
        unregister(ledger, batch, settings)
        ledger.forget_batch(batch_id)  # first: what is left without it counts as nothing, and goes another day
    ledger.sweep(batch_id)
    return True


def _is_over(ledger: Ledger, batch: Batch, settings: Settings) -> bool:
    """Return whether nothing is to be done for the batch any more."""
    if any(map(is_live, attempts_at(ledger, batch.id))):
        return False
    if ledger.stopped(batch.id):
        return ledger.stopped(batch.id) == "cancelled"
    if not batch.planned or open_shards(ledger, batch):
        return False
    return not owes_callback(ledger, batch) and not is_registered(batch.destination, batch.id, settings)


def _awaited(settings: Settings) -> set[str]:
    """Return the batches whose outcome a schedule has yet to read."""
    found: set[str] = set()
    with suppress(LedgerError):  # no setting says where schedules lie: there are none
        for repository, name in all_schedules(settings):
            run = repository.state(name).run
            found |= {part.batch for part in run.parts} if run and run.totals is None else set()
    return found


def _is_due(root: Store) -> bool:
    """Return whether a day has passed since the last pass; and if so, note that one begins."""
    with suppress(NotFound, LedgerError):
        last = parse(_Pass, root.get(RECORD).data, LedgerError, RECORD)
        if now() - datetime.fromisoformat(last.at) < EVERY:
            return False
    record = _Pass(at=now().isoformat(timespec="seconds"))
    root.put(RECORD, record.model_dump_json().encode(), content_type="application/json")
    return True


def _ledgers(root: Store, settings: Settings) -> Iterator[Ledger]:
    if settings.ledger_root:
        names = [name for name in root.folders("") if not name.startswith(".")]
        random.shuffle(names)  # a pass that runs out of time leaves out others each time
        yield from (Ledger(root, name) for name in names)
        return
    known = {root.url: open_ledger(root.url, s3=settings.s3)}
    for ledger, _ in open_batches([root.url], settings):
        known.setdefault(ledger.url, ledger)
    with suppress(LedgerError):
        for repository, name in all_schedules(settings):
            if repository.store.url == root.url:
                with suppress(LedgerError, StoreError):
                    ledger = find_ledger(repository.read(name).destination, settings)
                    known.setdefault(ledger.url, ledger)
    yield from known.values()
