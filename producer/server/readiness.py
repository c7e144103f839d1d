"""Whether requests would be done: asked of queue and store no more often than every few seconds, whoever asks."""

from __future__ import annotations

import threading
import time

from producer.server.limits import Counters
from workers.errors import WorkerError
from workers.ledger.open_batches import OPEN
from workers.store import Store

#: An answer is good for so long: probes come without a token.
GOOD_FOR_S = 2.0


class Readiness:
    """The last answer. Safe to share between threads."""

    def __init__(self, counters: Counters, root: Store) -> None:
        self._counters, self._root = counters, root
        self._lock = threading.Lock()
        self._problems: dict[str, str] = {}
        self._asked_at = float("-inf")

    def problems(self) -> dict[str, str]:
        """Return what does not answer, by its name; empty where all does."""
        with self._lock:
            if time.monotonic() - self._asked_at > GOOD_FOR_S:
                self._problems = self._ask()
                self._asked_at = time.monotonic()
            return self._problems

    def _ask(self) -> dict[str, str]:
        found = {} if self._counters.answers() else {"queue": "Redis does not answer"}
        try:
            next(self._root.list(OPEN), None)
        except WorkerError:
            found["store"] = "the ledger's store does not answer"
        return found
