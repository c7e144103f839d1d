"""Whether requests would be done: asked of queue and store no more often than every few seconds, whoever asks."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future

from producer.server.limits import Counters
from workers.errors import WorkerError
from workers.ledger.open_batches import OPEN
from workers.store import Store

#: An answer is good for so long: probes come without a token.
GOOD_FOR_S = 2.0
#: A store that hangs is waited for by one thread alone, and by nobody who asks for longer than this.
ANSWER_WITHIN_S = 3.0


class Readiness:
    """The last answer. Safe to share between threads."""

    def __init__(self, counters: Counters, root: Store) -> None:
        self._counters, self._root = counters, root
        self._lock = threading.Lock()
        self._answer: Future[dict[str, str]] | None = None
        self._asked_at = float("-inf")

    def problems(self) -> dict[str, str]:
        """Return what does not answer, by its name; empty where all does."""
        with self._lock:
            answer = self._answer
            if answer is None or (answer.done() and time.monotonic() - self._asked_at > GOOD_FOR_S):
                answer = self._answer = Future()
                threading.Thread(target=self._ask, args=(answer,), name="readiness", daemon=True).start()
        try:
            return answer.result(ANSWER_WITHIN_S)
        except TimeoutError:
            return {"store": "the ledger's store does not answer in time"}

    def _ask(self, answer: Future[dict[str, str]]) -> None:
        try:
            found = {} if self._counters.answers() else {"queue": "Redis does not answer"}
            try:
                next(self._root.list(OPEN), None)
            except WorkerError:
                found["store"] = "the ledger's store does not answer"
        except BaseException as error:
            answer.set_exception(error)
            raise
        else:
            self._asked_at = time.monotonic()
            answer.set_result(found)
