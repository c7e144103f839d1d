"""Retry policy of callbacks: delivered, retried with exponential backoff, or given up."""

from __future__ import annotations

from datetime import datetime

from workers.config.settings import Settings
from workers.core.backoff import backoff_s
from workers.core.clock import now
from workers.ledger.callback_state import Callback, later
from workers.webhooks.http_client import Answer

#: After the first failed try, in seconds; each further one doubles it, up to the second.
FIRST_DELAY_S, LONGEST_DELAY_S = 5.0, 3600.0

GONE = 410
#: Of those that say that the request is wrong, these are about the moment.
PASSING = {408, 425, 429}
#: After so many tries (ten minutes) a receiver that finds the request wrong is believed.
REFUSED_TRIES = 8


def tried(callback: Callback, answer: Answer | str, settings: Settings) -> Callback:
    """Return the record after a try that was claimed, and so is counted already."""
    tries = callback.tries
    ended: dict[str, object] = {"claimed_by": "", "claimed_until": "", "next_try_at": ""}
    if isinstance(answer, Answer) and answer.ok:
        ended |= {"status": answer.status, "last_error": "", "delivered_at": later(0)}
        return callback.model_copy(update=ended)
    status, wait_s = (answer.status, answer.retry_after_s) if isinstance(answer, Answer) else (None, None)
    delay_s = delay_after(tries, wait_s)
    ended |= {"status": status, "last_error": _explained(answer) if isinstance(answer, Answer) else answer}
    if _is_final(status, tries) or is_overdue(callback, settings, delay_s):
        ended["gave_up_at"] = later(0)
    else:
        ended["next_try_at"] = later(delay_s)
    return callback.model_copy(update=ended)


def delay_after(tries: int, retry_after_s: float | None = None) -> float:
    """Seconds until the next try, with jitter; a receiver may ask for more, up to an hour."""
    delay_s = backoff_s(tries, first_s=FIRST_DELAY_S, longest_s=LONGEST_DELAY_S)
    return max(delay_s, min(retry_after_s or 0.0, LONGEST_DELAY_S))


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


def is_overdue(callback: Callback, settings: Settings, in_s: float = 0.0) -> bool:
    """Return whether it has been tried for as long as it may be, or will have been in so many seconds."""
    if not callback.first_try_at:
        return False
    waited_s = (now() - datetime.fromisoformat(callback.first_try_at)).total_seconds()
    return waited_s + in_s > settings.callback_give_up_s


def given_up(callback: Callback, why: str) -> Callback:
    """Return the record of a callback that is given up; the last try's error is kept where it has one."""
    ended = {"claimed_by": "", "claimed_until": "", "next_try_at": "", "gave_up_at": later(0)}
    return callback.model_copy(update={**ended, "last_error": callback.last_error or why})


def postponed(callback: Callback, seconds: float) -> Callback:
    """Return the record where there was no try, and none is due for so many seconds."""
    free = {"claimed_by": "", "claimed_until": "", "next_try_at": later(seconds)}
    return callback.model_copy(update={**free, "first_try_at": callback.first_try_at or later(0)})
