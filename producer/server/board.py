"""Status of batches, read from the ledger once for however many ask at the same time."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Literal, get_args

from workers.ledger.batch_ledger import Ledger
from workers.status.batch_status import BatchMonitor, BatchSummary

#: Batches that are followed at once; of the others the reports are read anew when somebody asks.
FOLLOWED = 512
#: Reports in short that are held of all of them, at about a kilobyte each.
MOST_REPORTS = 100_000
#: So are those of all after so long: a photo that was forgotten by another process is named no longer than this.
ANEW_S = 60.0

State = Literal["planning", "running", "paused", "cancelled", "done"]
STATES: tuple[State, ...] = get_args(State)


@dataclass
class _Watched:
    monitor: BatchMonitor
    lock: threading.Lock = field(default_factory=threading.Lock)
    summary: BatchSummary | None = None
    read_at: float = 0.0
    followed_since: float = field(default_factory=time.monotonic)


class StatusBoard:
    """Where batches stand, as of `every_s` ago at most. Safe to share between threads."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._watched: OrderedDict[str, _Watched] = OrderedDict()
        self._lock = threading.Lock()

    def summary(self, ledger: Ledger, batch_id: str) -> BatchSummary:
        """Return where a batch stands.

        Raises:
            LedgerError: there is no such batch.
            StoreError: the store refuses.
        """
        url = ledger.batch_url(batch_id)
        with self._lock:
            one = self._watched.pop(url, None)
            if one is None or time.monotonic() - one.followed_since > ANEW_S:
                one = _Watched(BatchMonitor(ledger, batch_id))
            self._watched[url] = one
            while len(self._watched) > FOLLOWED:
                self._watched.popitem(last=False)
        with one.lock:
            if one.summary is None or time.monotonic() - one.read_at > self._every_s:
                one.summary = one.monitor.poll(running=True)
                one.read_at = time.monotonic()
                self._drop_what_is_too_much(url)
            return one.summary

    def _drop_what_is_too_much(self, kept: str) -> None:
        """Forget the batches that nobody has asked for the longest, while all together hold too many reports."""
        with self._lock:
            held = {url: one.summary.reported_shards for url, one in self._watched.items() if one.summary}
            too_many = sum(held.values()) - MOST_REPORTS
            for url, shards in held.items():
                if too_many <= 0:
                    return
                if url != kept:
                    del self._watched[url]
                    too_many -= shards

    def forget(self, ledger: Ledger, batch_id: str) -> None:
        """Read the batch anew the next time: somebody has just changed it."""
        with self._lock:
            self._watched.pop(ledger.batch_url(batch_id), None)

    def forget_all(self, ledger: Ledger) -> None:
        """As `forget`, of all batches of a ledger."""
        with self._lock:
            for url in [url for url in self._watched if url.startswith(f"{ledger.url}/batches/")]:
                del self._watched[url]


def state_of(summary: BatchSummary) -> State:
    """Return a batch's state in one word."""
    if summary.stopped == "cancelled":
        return "cancelled"
    if summary.done:
        return "done"
    if summary.stopped == "paused":
        return "paused"
    return "running" if summary.batch.planned else "planning"
