"""A semaphore of bytes: bounds a worker's memory whatever the photos are."""

from __future__ import annotations

import threading


class BudgetClosed(Exception):
    """Raised in waiting threads when the shard is being given up."""


class ByteBudget:
    """Lets holders in while their bytes fit; one that alone is over the limit passes when no other holds any."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._used = 0
        self._closed = False
        self._changed = threading.Condition()

    @property
    def used(self) -> int:
        return self._used

    def acquire(self, size: int) -> None:
        """Wait until `size` bytes fit.

        Raises:
            BudgetClosed: `close` was called.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._used or self._used + size <= self.limit)
            if self._closed:
                raise BudgetClosed
            self._used += size

    def release(self, size: int) -> None:
        with self._changed:
            self._used -= size
            self._changed.notify_all()

    def close(self) -> None:
        """Wake every waiter with BudgetClosed."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
