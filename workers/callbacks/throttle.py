"""Per-receiver circuit breaker and time budget for webhooks.

A worker that posts a callback protects no photo meanwhile. So a receiver that hangs must not cost its time-out for each
of many callbacks, nor one that is slow its seconds, and all of them together get no more than half of the time. A
receiver is known by its host, without the port, and by its addresses, of which there are fewer than names; and by its
tenant, so that no tenant opens the breaker of another. Known to this process alone, and forgotten with it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from workers.errors import CallbackError

#: A try that failed after longer than this kept us waiting for nothing: its receiver rests for so long.
LONG_S = 1.0
REST_S = 60.0
#: An answer after longer than this is slow, and each receiver may take so many seconds of a minute for slow ones.
SLOW_S = 2.0
SLOW_BUDGET_S = 6.0
#: Seconds of a minute that this process posts callbacks; the other half is the photos'.
BUDGET_S = 30.0
MINUTE_S = 60.0
#: Receivers that are remembered, lest ever new ones fill memory.
MOST = 1000


class ReceiverPaused(CallbackError):
    """A callback is not posted now; `wait_s` says for how long."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"the receiver is left alone for {wait_s:.0f} s, as it kept this worker waiting")
        self.wait_s = wait_s


@dataclass
class Spent:
    """Seconds spent of a budget, which comes back evenly within a minute."""

    budget_s: float
    _spent_s: float = 0.0
    _at: float = 0.0

    def add(self, seconds: float) -> None:
        self._spent_s = self._now_s() + seconds
        self._at = time.monotonic()

    def clear(self) -> None:
        self._spent_s = 0.0

    def over_s(self) -> float:
        """Seconds until no more than the budget is spent; 0: there is some left."""
        return max(0.0, self._now_s() - self.budget_s) * MINUTE_S / self.budget_s

    def _now_s(self) -> float:
        return max(0.0, self._spent_s - (time.monotonic() - self._at) * self.budget_s / MINUTE_S)


@dataclass
class _Receiver:
    until: float = 0.0
    slow: Spent = field(default_factory=lambda: Spent(SLOW_BUDGET_S))

    def rest_s(self) -> float:
        return max(0.0, self.until - time.monotonic(), self.slow.over_s())


_receivers: dict[tuple[str, str], _Receiver] = {}
_all = Spent(BUDGET_S)


def rest_s(tenant: str, names: Iterable[str]) -> float:
    """Seconds for which a receiver with these hosts and addresses is still left alone; 0: it may be tried."""
    known = (_receivers.get((tenant, name)) for name in names)
    return max((receiver.rest_s() for receiver in known if receiver), default=0.0)


def busy_s() -> float:
    """Seconds until this process may post any callback; 0: now."""
    return _all.over_s()


def note(tenant: str, names: Iterable[str], waited_s: float, *, answered: bool) -> None:
    """Note a try that ended after so long."""
    _all.add(waited_s)
    if waited_s < (SLOW_S if answered else LONG_S):
        return
    for name in names:
        receiver = _receivers.pop((tenant, name), None) or _Receiver()
        while len(_receivers) >= MOST:
            del _receivers[next(iter(_receivers))]
        _receivers[tenant, name] = receiver
        if answered:
            receiver.slow.add(waited_s)
        else:
            receiver.until = time.monotonic() + REST_S


def forget() -> None:
    """All of them may be tried."""
    _receivers.clear()
    _all.clear()
