"""Credit of bulk work: a worker's time that it is owed, so that endless uploads do not starve it.

Each second spent on uploads adds to it, each second spent on bulk work takes off, so that the latter comes to its share
of the worker's time. Once a turn's worth is owed bulk work is asked for first, and it gives way to uploads only when
nothing is owed any more. The worker's parent keeps such an account for the order of its queues, and each process that
runs tasks keeps its own for when to give way.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from workers.core.records import BULK

#: Bulk work's turn comes when so much is owed: longer turns waste less on beginning again, shorter ones hold up uploads
#: for less.
TURN_S = 5.0
#: A worker that was idle for so long had nothing waiting, and owes nothing.
IDLE_S = 2.0


class BulkCredit:
    """Seconds owed to bulk work; `tick` is told what runs from now on."""

    def __init__(self, share: float = 0.25) -> None:
        self.share = share
        self._s = 0.0
        self._running: list[str] = []
        self._since = time.monotonic()

    def tick(self, running: Iterable[str], *, begins: str = "") -> None:
        """From now on messages of these queues run, until the next tick; `begins` is the one just taken."""
        was_idle = not self._running and time.monotonic() - self._since > IDLE_S
        self._s = 0.0 if was_idle else self.now(self._running)
        self._running, self._since = list(running), time.monotonic()
        if begins and not begins.startswith(BULK):
            self._s = min(self._s, TURN_S)  # it was bulk work's turn, and none waited

    def now(self, running: Iterable[str]) -> float:
        """Seconds owed by now, where these ran since the last tick."""
        seconds, owed = time.monotonic() - self._since, self._s
        for queue in running:
            owed += -seconds if queue.startswith(BULK) else seconds * self.share / (1 - self.share)
        return max(0.0, owed)

    @property
    def is_turn(self) -> bool:
        """Whether bulk work comes before uploads."""
        return self._s >= TURN_S
