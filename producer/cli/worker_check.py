"""Warn when no worker listens for what a batch has left to do."""

from __future__ import annotations

import time
from dataclasses import dataclass

from workers.broker.presence import NotKnown, UnservedQueues, can_be_asked, find_unserved_quickly
from workers.broker.queues import queue_of
from workers.config.settings import Settings
from workers.core.records import INTERACTIVE
from workers.ledger.batch_ledger import Ledger
from workers.ledger.leases import attempts_at, is_live
from workers.status.batch_status import BatchSummary

#: While a batch is followed Redis is asked so often.
LOOK_EVERY_S = 15.0


@dataclass(frozen=True)
class WorkerCheck:
    """The queues that a batch still needs, and their workers."""

    #: Those without a worker; None: not known.
    unserved: tuple[UnservedQueues, ...] | None = ()
    #: Why it is not known.
    why: str = ""

    def as_json(self) -> list[dict[str, object]] | None:
        return None if self.unserved is None else [one.as_dict() for one in self.unserved]

    def __str__(self) -> str:
        """For people; empty where all is well."""
        if self.unserved is None:
            return self.why
        return "; ".join(map(str, self.unserved)) + (": start one with `apf worker`" if self.unserved else "")


def listening(ledger: Ledger, summary: BatchSummary, settings: Settings) -> WorkerCheck:
    """Ask Redis, for some seconds at most, where there is a queue and something to do.

    Raises:
        StoreError: the ledger's store refuses.
    """
    queues = _needed(summary)
    if not queues or not can_be_asked(settings):
        return WorkerCheck()
    try:
        found = tuple(find_unserved_quickly(queues, settings))
    except NotKnown as error:
        return WorkerCheck(None, str(error))
    if found and any(map(is_live, attempts_at(ledger, summary.id))):
        return WorkerCheck()  # a worker runs it: one inside a command that knows no queue, say
    return WorkerCheck(found)


def _needed(summary: BatchSummary) -> list[str]:
    if summary.stopped:
        return []
    needed = [] if summary.done else [queue_of(summary.batch)]
    callback = summary.callback and summary.callback.state in ("waiting", "retrying")
    if not summary.batch.planned or (summary.done and callback):
        needed.append(INTERACTIVE)
    return needed


class Notices:
    """Says once when no worker listens for a batch that is followed, and once when one does again."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._ledger, self._settings = ledger, settings
        self._looked_at = float("-inf")
        self._is_told = False

    def __call__(self, summary: BatchSummary) -> str:
        """Return what is new; empty: nothing."""
        if time.monotonic() - self._looked_at < LOOK_EVERY_S:
            return ""
        found = listening(self._ledger, summary, self._settings)
        self._looked_at = time.monotonic()
        if found.unserved is None or bool(found.unserved) == self._is_told:
            return ""
        self._is_told = bool(found.unserved)
        return str(found) if self._is_told else "a worker is listening again"
