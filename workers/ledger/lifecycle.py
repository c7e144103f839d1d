"""Close a batch once it is done and its callback is settled, or hold or cancel it."""

from __future__ import annotations

import logging

from workers.config.settings import Settings
from workers.core.records import Batch
from workers.errors import LedgerError, WorkerError
from workers.ledger.batch_ledger import ASKED_BY_NAME, Ledger, Stop, is_single
from workers.ledger.callback_state import Notify, owes_callback, request_delivery, seems_done
from workers.ledger.open_batches import register, unregister
from workers.ledger.report_cache import open_shards

log = logging.getLogger(__name__)


def cancel(ledger: Ledger, batch: Batch, settings: Settings) -> None:
    """Stop a batch for good: it leaves the index of open batches until it is resumed."""
    ledger.stop(batch.id, "cancelled")
    unregister(ledger, batch, settings)


def halt(ledger: Ledger, batch: Batch, how: Stop, settings: Settings) -> None:
    """Hold or stop a batch that is not done.

    Raises:
        LedgerError: it is done.
    """
    # The listing first: of a large batch that runs, it takes long to read every report.
    listed = batch.planned and ledger.reported_shards(batch.id) >= set(range(batch.shards))
    if listed and not open_shards(ledger, batch):
        raise LedgerError(f"batch {batch.id} is done already, so it cannot be {how}: nothing of it is left to stop")
    if how == "cancelled":
        cancel(ledger, batch, settings)
    else:
        ledger.stop(batch.id, how)


def close(ledger: Ledger, batch: Batch, settings: Settings, notify: Notify | None = None) -> None:
    """Close a batch that is done: it leaves the index of open batches once its callback is delivered."""
    if not owes_callback(ledger, batch):
        take_off(ledger, batch, settings)
    elif notify:
        request_delivery(ledger, batch, notify, settings)


def take_off(ledger: Ledger, batch: Batch, settings: Settings) -> None:
    """Take a batch that owes nothing off the index of open batches; raises StoreError, LedgerError."""
    unregister(ledger, batch, settings)
    try:
        is_same = ledger.read_batch(batch.id) == batch
    except WorkerError:
        if not _is_gone(ledger, batch):
            register(ledger, batch, settings)
        raise
    if not is_same:  # retried in this very moment
        register(ledger, batch, settings)


def _is_gone(ledger: Ledger, batch: Batch) -> bool:
    """Return whether the batch was taken back in this very moment; False where the store does not answer."""
    try:
        return not ledger.has_batch(batch.id)
    except WorkerError:
        return False


def after_shard(
    ledger: Ledger, batch: Batch, shard: int, settings: Settings, notify: Notify, *, reported: bool = False
) -> None:
    """After a batch's last shard: have its callback delivered now; an upload that asks for none is closed.

    Errors are logged: the report is written, and a later pass finds that a callback is owed, or the batch done.

    Args:
        batch: the record as it is, or was right before the report.
        reported: whether the shard's report was written just now; else the ledger is asked.
    """
    try:
        if batch.callback is None and not is_single(batch):
            return
        if not batch.planned:  # its planner may have ended since, and have missed the report
            batch = ledger.read_batch(batch.id)
        if not batch.planned or not ((reported and is_single(batch)) or _seems_done(ledger, batch, shard)):
            return
        if batch.callback is None:
            take_off(ledger, batch, settings)
        else:
            notify(ledger.batch_url(batch.id))
    except WorkerError as error:
        log.warning("batch %s may have ended, and is closed or called back later: %s", batch.id, error)


def _seems_done(ledger: Ledger, batch: Batch, shard: int) -> bool:
    """By a listing, and only near the end: of a million photos, one after every shard would cost more than the shard.

    Where the last shard to end is not one of the last by number, a later pass finds that the batch is done.
    """
    return batch.shards - shard <= ASKED_BY_NAME and seems_done(ledger, batch)
