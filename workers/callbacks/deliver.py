"""Deliver the callback of a batch that is done: one try, and when the next one is due."""

from __future__ import annotations

import logging
import random
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass

from workers.access.batch_records import check_batch
from workers.callbacks import throttle
from workers.callbacks.payload import batch_done, is_of
from workers.callbacks.retry_policy import REFUSED_TRIES, given_up, is_overdue, postponed, tried
from workers.callbacks.throttle import ReceiverPaused
from workers.config.access import check_allowed
from workers.config.settings import Settings
from workers.core.records import Batch
from workers.errors import CallbackError, NotAllowed
from workers.ledger.batch_ledger import STOPS, Ledger, is_single, open_batch
from workers.ledger.callback_state import (
    RECORD,
    Callback,
    Result,
    later,
    make_callback,
    new_callback,
    read_callback,
    seems_done,
    write_callback,
)
from workers.ledger.lifecycle import take_off
from workers.webhooks.http_client import Answer, Post, send
from workers.webhooks.ssrf import parse_target, site

log = logging.getLogger(__name__)

#: A task waits for no longer than this; later tries are asked for by the pass that reconciles the batch.
LONGEST_COUNTDOWN_S = 320.0
#: Added to a claim for each report, as the first try reads all of them.
REPORT_S = 0.1
#: Clocks of workers may differ by so much.
EARLY_S = 1.0


@dataclass(frozen=True)
class Delivery:
    """The outcome of one delivery task; `result` is counted by metrics."""

    result: Result
    #: Try again in so many seconds; None: not by this task.
    again_s: float | None = None


NOTHING_TO_DO = Delivery("nothing_to_do")
POSTPONED = Delivery("postponed")


def deliver(batch_url: str, settings: Settings) -> Delivery:
    """Post the batch's callback once, where it is due, and write down what came of it.

    A reason for not delivering it is in its record in the ledger, and in the log.

    Raises:
        NotAllowed: the batch lies where this worker may not read.
        LedgerError, StoreError: the ledger cannot be read or written.
    """
    check_allowed(batch_url, settings.allowed_for_batches, what="batch")
    ledger, batch_id = open_batch(batch_url, s3=settings.s3)
    batch = ledger.read_batch(batch_id)
    if batch.callback is None or not batch.planned:
        return NOTHING_TO_DO
    # Of a batch of one shard, as an upload's is, one listing tells of a stop and of earlier tries.
    names = frozenset(ledger.names(batch_id)) if is_single(batch) else None
    if names is not None and not names.isdisjoint(STOPS):
        return NOTHING_TO_DO
    is_new = names is not None and RECORD not in names
    callback = new_callback(ledger, batch) if is_new else read_callback(ledger, batch)
    if callback.settled:
        take_off(ledger, batch, settings)
        return NOTHING_TO_DO
    if callback.due_in_s() > EARLY_S:
        return NOTHING_TO_DO  # another worker holds the claim
    # Of one shard the report itself is read soon.
    if not callback.first_try_at and not is_single(batch) and not seems_done(ledger, batch):
        return NOTHING_TO_DO
    facts = (ledger, batch, batch.callback, callback, settings)
    return _held_back(*facts) or _try(*facts, is_new=is_new)


def _held_back(ledger: Ledger, batch: Batch, url: str, callback: Callback, settings: Settings) -> Delivery | None:
    """Return what there is instead of a try, if anything."""
    if callback.claimed_by and callback.tries >= REFUSED_TRIES and is_overdue(callback, settings):
        return _concluded(ledger, batch, given_up(callback, "each worker that tried it died at it"), settings)
    if wait_s := throttle.busy_s():
        return _postpone(ledger, batch, callback, wait_s)
    if wait_s := _rest_s(batch, url):
        return _leave_alone(ledger, batch, callback, wait_s, settings)
    return None


def _try(
    ledger: Ledger, batch: Batch, url: str, callback: Callback, settings: Settings, *, is_new: bool = False
) -> Delivery:
    """One try, which counts from its start: a worker that dies of the batch's size has had its try, too."""
    if (claimed := _claim(ledger, batch, callback, settings, is_new=is_new)) is None:
        return NOTHING_TO_DO
    body = _body(ledger, batch)
    if body is None:  # a report is torn, or it was stopped meanwhile
        write_callback(ledger, batch, new_callback(ledger, batch))
        return NOTHING_TO_DO
    try:
        answer = _post(ledger, batch, Post(url, callback.id, body), settings)
    except ReceiverPaused as error:  # by its addresses: that was no try
        return _leave_alone(ledger, batch, callback, error.wait_s, settings)
    return _concluded(ledger, batch, tried(claimed, answer, settings), settings)


def _leave_alone(ledger: Ledger, batch: Batch, callback: Callback, wait_s: float, settings: Settings) -> Delivery:
    if is_overdue(callback, settings):
        why = "its receiver kept workers waiting, each time that one tried it for any batch"
        return _concluded(ledger, batch, given_up(callback, why), settings)
    return _postpone(ledger, batch, callback, wait_s)


def _postpone(ledger: Ledger, batch: Batch, callback: Callback, wait_s: float) -> Delivery:
    """Write into the record until when there is to be no try: no worker is asked before; then the periodic pass
    asks.
    """
    wait_s *= random.uniform(1, 1.25)  # noqa: S311  jitter, no secret
    write_callback(ledger, batch, postponed(callback, wait_s))
    log.info("callback of batch %s is postponed by %.0f s: callbacks have kept this worker for long", batch.id, wait_s)
    return POSTPONED


def _body(ledger: Ledger, batch: Batch) -> bytes | None:
    """Return what is posted, the same at every try. It is kept where it is made of many reports, which take long."""
    if is_single(batch):
        return batch_done(ledger, batch, stopped=False)  # as its listing has just told
    key = ledger.key(batch.id, "callback", f"{batch.shards:05}.json")
    body = ledger.read(key)
    if body and is_of(body, batch):
        return body
    if body := batch_done(ledger, batch):
        ledger.store.put(key, body, content_type="application/json")
    return body


def _claim(ledger: Ledger, batch: Batch, callback: Callback, settings: Settings, *, is_new: bool) -> Callback | None:
    """Return the record as ours; None where another took it in the same moment. Both may win: that is what the id is
    for.
    """
    mine = callback.model_copy(
        update={
            "claimed_by": secrets.token_hex(8),
            "claimed_until": later(settings.callback_timeout_s + settings.lease_s + batch.shards * REPORT_S),
            "tries": callback.tries + 1,
            "first_try_at": callback.first_try_at or later(0),
        }
    )
    made = make_callback(ledger, batch, mine) if is_new else None
    if made:
        return mine
    if made is None:
        write_callback(ledger, batch, mine)
    return mine if read_callback(ledger, batch).claimed_by == mine.claimed_by else None


def _post(ledger: Ledger, batch: Batch, post: Post, settings: Settings) -> Answer | str:
    """Return the receiver's answer, or why there is none; raises ReceiverPaused where it is not asked."""
    names = _names(post.url)

    def admit(found: list[str]) -> None:
        sites = [site(address) for address in found]
        if wait_s := throttle.rest_s(batch.tenant, sites):
            raise ReceiverPaused(wait_s)
        names.extend(sites)

    started = time.monotonic()
    answer: Answer | str
    try:
        check_batch(ledger, batch, settings)
        answer = send(post, settings.callback_keys(), settings.posting, admit)
    except ReceiverPaused:
        raise
    except (CallbackError, NotAllowed) as error:
        answer = str(error)
    throttle.note(batch.tenant, set(names), time.monotonic() - started, answered=isinstance(answer, Answer))
    return answer


def _rest_s(batch: Batch, url: str) -> float:
    """Seconds for which the URL's host is left alone; its addresses are looked up with the try."""
    return throttle.rest_s(batch.tenant, _names(url))


def _names(url: str) -> list[str]:
    """Return the host; nothing for a URL that is none: it has its try, which says so."""
    with suppress(CallbackError):
        return [parse_target(url).host]
    return []


def _concluded(ledger: Ledger, batch: Batch, tried: Callback, settings: Settings) -> Delivery:
    """Write the record after a try down, and say what comes next."""
    write_callback(ledger, batch, tried)
    if tried.delivered_at:
        log.info("batch %s is called back, at try %d", batch.id, tried.tries)
        take_off(ledger, batch, settings)
        return Delivery("delivered")
    if tried.gave_up_at:
        log.error("callback of batch %s is given up after %d tries: %s", batch.id, tried.tries, tried.last_error)
        take_off(ledger, batch, settings)
        return Delivery("gave_up")
    wait_s = tried.due_in_s()
    log.warning("callback of batch %s failed, next try in %.0f s: %s", batch.id, wait_s, tried.last_error)
    # Redis hands a message that waits for longer than the visibility timeout to a second worker.
    longest_s = min(LONGEST_COUNTDOWN_S, settings.visibility_timeout_s / 2)
    return Delivery("failed", wait_s if wait_s <= longest_s else None)
