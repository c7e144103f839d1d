"""Delivery state of a batch's callback, in the ledger, and requests to deliver it.

    <batch>/callback.json          the record below
            callback/00042.json    what is posted, when 42 shards are done (`workers.callbacks.payload`); not of one
            callback-asked.json    when a worker was last asked to deliver it

Delivered at least once: a worker posts, then notes it. One that dies in between leaves a claim that ends by itself, and
the pass that reconciles the batch asks another, which posts the same body under the same id. Until its callback is
delivered or given up a batch stays registered as open, so nothing is lost with Redis.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict

from workers.config.settings import Settings
from workers.core.clock import now
from workers.core.records import Batch, parse
from workers.errors import LedgerError, NoConditions
from workers.ledger.batch_ledger import ASKED_BY_NAME, Ledger
from workers.store.base import put_if_absent

log = logging.getLogger(__name__)

#: Asks a worker to deliver the callback of the batch with this URL.
Notify = Callable[[str], None]

State = Literal["waiting", "retrying", "delivered", "gave_up"]

RECORD, ASKED = "callback.json", "callback-asked.json"

#: In leases: how long after a try was due another worker is asked, and how long until it is asked again.
LATE, ASK_AGAIN = 1, 5

Result = Literal["delivered", "failed", "gave_up", "postponed", "nothing_to_do"]


class Callback(BaseModel):
    """How far the callback of one end of a batch is. Moments are ISO 8601 with their offset; empty for none."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    #: The number of shards that were done: failed photos that are retried add some, and end the batch once more.
    end: int
    #: The `webhook-id`.
    id: str
    #: A claimed one included.
    tries: int = 0
    #: Of the last answer; None where there was none.
    status: int | None = None
    last_error: str = ""
    #: Or when it was first postponed.
    first_try_at: str = ""
    next_try_at: str = ""
    #: The worker that holds it, and until when.
    claimed_by: str = ""
    claimed_until: str = ""
    delivered_at: str = ""
    gave_up_at: str = ""

    @property
    def settled(self) -> bool:
        """Whether it is delivered or given up."""
        return bool(self.delivered_at or self.gave_up_at)

    @property
    def state(self) -> State:
        if self.delivered_at:
            return "delivered"
        if self.gave_up_at:
            return "gave_up"
        tried_before = self.tries - 1 if self.claimed_by else self.tries
        return "retrying" if tried_before > 0 else "waiting"

    def due_in_s(self) -> float:
        """Seconds until it may be tried; 0 or less: now, and for how long already."""
        moments = [datetime.fromisoformat(text) for text in (self.next_try_at, self.claimed_until) if text]
        return max(((moment - now()).total_seconds() for moment in moments), default=0.0)

    def as_json(self) -> dict[str, object]:
        """Return what `apf status --json` tells."""
        told = ("id", "tries", "status", "last_error", "next_try_at", "delivered_at", "gave_up_at")
        return {"state": self.state, **self.model_dump(include=set(told))}


class _DeliveryRequest(BaseModel):
    end: int
    at: str


def webhook_id(ledger: Ledger, batch: Batch) -> str:
    """Return the id of a batch's end: always the same, whichever worker posts it."""
    text = f"{ledger.batch_url(batch.id)}\0{batch.shards}"
    return f"msg_{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def new_callback(ledger: Ledger, batch: Batch) -> Callback:
    """Return the record of an end that no worker has tried to deliver."""
    return Callback(end=batch.shards, id=webhook_id(ledger, batch))


def read_callback(ledger: Ledger, batch: Batch) -> Callback:
    """Return the record of the batch's present end; a new one where there is none, or it is torn or of an earlier
    end.
    """
    fresh = new_callback(ledger, batch)
    data = ledger.read(ledger.key(batch.id, RECORD))
    if data is None:
        return fresh
    try:
        found = parse(Callback, data, LedgerError, RECORD)
    except LedgerError as error:
        log.warning("batch %s is called back anew: %s", batch.id, error)
        return fresh
    return found if found.end == fresh.end else fresh


def write_callback(ledger: Ledger, batch: Batch, callback: Callback) -> None:
    ledger.put_json(ledger.key(batch.id, RECORD), callback)


def make_callback(ledger: Ledger, batch: Batch, callback: Callback) -> bool | None:
    """Write the first record of a batch; False where there is one by now, None where the store cannot tell."""
    try:
        return put_if_absent(ledger.store, ledger.key(batch.id, RECORD), callback.model_dump_json().encode())
    except NoConditions:
        return None


def owes_callback(ledger: Ledger, batch: Batch) -> bool:
    """Return whether a batch that is done still has to be called back."""
    return batch.callback is not None and not read_callback(ledger, batch).settled


def delivery_started(ledger: Ledger, batch: Batch) -> bool:
    """Return whether the batch's end was found already, and its callback was tried or postponed, and is owed still."""
    if batch.callback is None or not batch.planned:
        return False
    callback = read_callback(ledger, batch)
    return bool(callback.tries or callback.first_try_at) and not callback.settled


def request_delivery(ledger: Ledger, batch: Batch, notify: Notify, settings: Settings) -> None:
    """Ask a worker for the callback of a batch that is done, where no worker seems to hold it; raises BrokerError."""
    callback = read_callback(ledger, batch)
    # Without a try, no worker may have been asked; else the one of the last try is about to try again.
    patience_s = LATE * settings.lease_s if callback.tries else 0.0
    if callback.due_in_s() > -patience_s:
        return
    data = ledger.read(ledger.key(batch.id, ASKED))
    asked = _parsed(data) if data else None
    waits = asked and asked.end == batch.shards and not _was_heard(asked, callback)
    if asked and waits and _age_s(asked.at) < ASK_AGAIN * settings.lease_s:
        return
    notify(ledger.batch_url(batch.id))
    ledger.put_json(ledger.key(batch.id, ASKED), _DeliveryRequest(end=batch.shards, at=now().isoformat()))


def seems_done(ledger: Ledger, batch: Batch) -> bool:
    """Return whether each shard has a report, by a listing and a few GETs, and the batch is not stopped."""
    if ledger.stopped(batch.id):
        return False
    missing = set(range(batch.shards)) - ledger.reported_shards(batch.id)
    return len(missing) <= ASKED_BY_NAME and all(ledger.has_report(batch.id, number) for number in missing)


def _parsed(data: bytes) -> _DeliveryRequest | None:
    with suppress(LedgerError):  # torn
        return parse(_DeliveryRequest, data, LedgerError, ASKED)
    return None


def _was_heard(asked: _DeliveryRequest, callback: Callback) -> bool:
    """Return whether the worker that was asked has set the next try's moment, so that no message waits any more."""
    moment = callback.next_try_at
    return bool(moment) and datetime.fromisoformat(moment) > datetime.fromisoformat(asked.at)


def _age_s(moment: str) -> float:
    return (now() - datetime.fromisoformat(moment)).total_seconds()


def later(seconds: float) -> str:
    """Return the moment in so many seconds, as records have it."""
    return (now() + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")
