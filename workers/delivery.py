"""Delivering the callback of a batch that is done: one try, and when the next one is due."""

from __future__ import annotations

import logging
import random
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from workers import resting
from workers.address import parse_target
from workers.allowed import check_allowed
from workers.attempts import now
from workers.callback import Callback, later, read_callback, write_callback
from workers.errors import CallbackError, NotAllowed
from workers.event import batch_done, is_of
from workers.job import Batch
from workers.ledger import Ledger, open_batch
from workers.reconcile import close
from workers.settings import Settings
from workers.trust import check_batch
from workers.webhook import Answer, Post, send

log = logging.getLogger(__name__)

#: After the first failed try, in seconds; each further one doubles it, up to the second.
FIRST_DELAY_S, LONGEST_DELAY_S = 5.0, 3600.0
#: A task waits for no longer than this; later tries are asked for by whoever reconciles the batch.
LONGEST_COUNTDOWN_S = 320.0
#: Clocks of workers may differ by so much.
EARLY_S = 1.0

GONE = 410
#: Of those that say that the request is wrong, these are about the moment.
PASSING = {408, 425, 429}
#: After so many tries (ten minutes) a receiver that finds the request wrong is believed.
REFUSED_TRIES = 8

Result = Literal["delivered", "failed", "gave_up", "postponed", "nothing_to_do"]


@dataclass(frozen=True)
class Delivery:
    """What came of asking for a callback; `result` is what metrics count."""

    result: Result
    #: Try again in so many seconds; None: not by this task.
    again_s: float | None = None


NOTHING_TO_DO = Delivery("nothing_to_do")


def deliver(batch_url: str, settings: Settings) -> Delivery:
    """Post the batch's callback once, where it is due, and write down what came of it.

    Whatever keeps it from being delivered is in its record in the ledger, and in the log.

    Raises:
        NotAllowed: the batch lies where this worker may not read.
        LedgerError, StoreError: the ledger cannot be read or written.
    """
    check_allowed(batch_url, settings.allowed_for_batches, what="batch")
    ledger, batch_id = open_batch(batch_url, s3=settings.s3)
    batch = ledger.read_batch(batch_id)
    if batch.callback is None or not batch.planned:
        return NOTHING_TO_DO
    callback = read_callback(ledger, batch)
    if callback.settled:
        close(ledger, batch, settings)
        return NOTHING_TO_DO
    if callback.due_in_s() > EARLY_S:
        return NOTHING_TO_DO  # somebody else is at it
    if wait_s := _rest_s(batch.callback):
        return Delivery("postponed", wait_s * random.uniform(1, 1.25))  # noqa: S311  jitter, no secret
    body = _body(ledger, batch)
    if body is None or (claimed := _claim(ledger, batch, callback, settings)) is None:
        return NOTHING_TO_DO
    tried = _tried(claimed, _post(ledger, batch, Post(batch.callback, callback.id, body), settings), settings)
    write_callback(ledger, batch, tried)
    return _concluded(ledger, batch, tried, settings)


def _body(ledger: Ledger, batch: Batch) -> bytes | None:
    """What is posted: made once, as reading all reports takes long, and so that every try says the same."""
    key = ledger.key(batch.id, "callback", f"{batch.shards:05}.json")
    body = ledger.read(key)
    if body and is_of(body, batch):
        return body
    if body := batch_done(ledger, batch.id):
        ledger.store.put(key, body, content_type="application/json")
    return body


def _claim(ledger: Ledger, batch: Batch, callback: Callback, settings: Settings) -> Callback | None:
    """The record as ours; None where another took it in the same moment. Both may win: that is what the id is for."""
    mine = callback.model_copy(
        update={
            "claimed_by": secrets.token_hex(8),
            "claimed_until": later(settings.callback_timeout_s + settings.lease_s),
            "first_try_at": callback.first_try_at or later(0),
        }
    )
    write_callback(ledger, batch, mine)
    return mine if read_callback(ledger, batch).claimed_by == mine.claimed_by else None


def _post(ledger: Ledger, batch: Batch, post: Post, settings: Settings) -> Answer | str:
    """The receiver's answer, or why there is none."""
    started = time.monotonic()
    answer: Answer | str
    try:
        check_batch(ledger, batch, settings)
        answer = send(post, settings.callback_keys(), settings.posting)
    except (CallbackError, NotAllowed) as error:
        answer = str(error)
    with suppress(CallbackError):
        origin = parse_target(post.url).origin
        resting.note(origin, time.monotonic() - started, answered=isinstance(answer, Answer))
    return answer


def _rest_s(url: str) -> float:
    """Seconds for which the URL's receiver is left alone; a URL that is none has its try, which says so."""
    try:
        return resting.rest_s(parse_target(url).origin)
    except CallbackError:
        return 0.0


def _tried(callback: Callback, answer: Answer | str, settings: Settings) -> Callback:
    """The record after a try."""
    tries = callback.tries + 1
    ended = {"tries": tries, "claimed_by": "", "claimed_until": "", "next_try_at": ""}
    if isinstance(answer, Answer) and answer.ok:
        ended |= {"status": answer.status, "last_error": "", "delivered_at": later(0)}
        return callback.model_copy(update=ended)
    status, wait_s = (answer.status, answer.retry_after_s) if isinstance(answer, Answer) else (None, None)
    delay_s = delay_after(tries, wait_s)
    waited_s = (now() - datetime.fromisoformat(callback.first_try_at)).total_seconds()
    ended |= {"status": status, "last_error": _explained(answer) if isinstance(answer, Answer) else answer}
    if _is_final(status, tries) or waited_s + delay_s > settings.callback_give_up_s:
        ended["gave_up_at"] = later(0)
    else:
        ended["next_try_at"] = later(delay_s)
    return callback.model_copy(update=ended)


def delay_after(tries: int, retry_after_s: float | None = None) -> float:
    """Seconds until the next try, with jitter; a receiver may ask for more, up to an hour."""
    backing_off = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(tries - 1, 30)) * random.uniform(0.75, 1)  # noqa: S311
    return max(backing_off, min(retry_after_s or 0.0, LONGEST_DELAY_S))


def _is_final(status: int | None, tries: int) -> bool:
    if status is None or not 400 <= status < 500 or status in PASSING:
        return False
    return status == GONE or tries >= REFUSED_TRIES


def _explained(answer: Answer) -> str:
    if 300 <= answer.status < 400:
        return f"the receiver answered {answer.status}, and redirects are not followed: give the URL that it leads to"
    if answer.status == GONE:
        return "the receiver answered 410, which means that it wants no more callbacks"
    return f"the receiver answered {answer.status}, and not 2xx"


def _concluded(ledger: Ledger, batch: Batch, tried: Callback, settings: Settings) -> Delivery:
    if tried.delivered_at:
        log.info("batch %s is called back, at try %d", batch.id, tried.tries)
        close(ledger, batch, settings)
        return Delivery("delivered")
    if tried.gave_up_at:
        log.error("callback of batch %s is given up after %d tries: %s", batch.id, tried.tries, tried.last_error)
        close(ledger, batch, settings)
        return Delivery("gave_up")
    wait_s = tried.due_in_s()
    log.warning("callback of batch %s failed, next try in %.0f s: %s", batch.id, wait_s, tried.last_error)
    return Delivery("failed", wait_s if wait_s <= LONGEST_COUNTDOWN_S else None)
