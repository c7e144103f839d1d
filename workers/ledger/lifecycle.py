"""Close a batch once it is done and its callback is settled, or hold or cancel it."""

from __future__ import annotations

import logging

from workers.config.settings import Settings
from workers.core.records import Batch
from workers.errors import LedgerError, WorkerError
from workers.ledger.batch_ledger import Ledger, Stop, open_batch
from workers.ledger.callback_state import Notify, owes_callback, request_delivery
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
    if owes_callback(ledger, batch):
        if notify:
            request_delivery(ledger, batch, notify, settings)
        return
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
    """Return whether the batch was taken back in this very moment; False where nobody can say."""
    try:
        return not ledger.has_batch(batch.id)
    except WorkerError:
        return False


def close_single(batch_url: str, settings: Settings) -> None:
    """After a shard: where it was its batch's only one, as an upload's is, the batch need not be found done by a pass.

    Where it owes a callback, a pass has to see to it. Errors are logged, and left to the next pass.
    """
    try:
        ledger, batch_id = open_batch(batch_url, s3=settings.s3)
        batch = ledger.read_batch(batch_id)
        if batch.planned and batch.shards == 1 and batch.callback is None and ledger.has_report(batch_id, 0):
            close(ledger, batch, settings)
    except WorkerError as error:
        log.warning("batch %s is closed later: %s", batch_url, error)
