"""Exponential backoff after a failure, up to a bound, that ends at once when the process stops."""

from __future__ import annotations

import threading
import time

FIRST_S, LONGEST_S = 1.0, 30.0


class Backoff:
    """Backoff of a source that takes nothing more for a while. Safe to share between threads."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._lock = threading.Lock()
        self._until = 0.0
        self._length = 0.0

    def failed(self) -> None:
        """Wait from now on, twice as long as the last time. A failure while it waits changes nothing."""
        with self._lock:
            now = time.monotonic()
            if now >= self._until:
                self._length = min(LONGEST_S, max(FIRST_S, 2 * self._length))
                self._until = now + self._length

    def succeeded(self) -> None:
        """All is well again."""
        with self._lock:
            self._length = self._until = 0.0

    def wait(self) -> bool:
        """Return when the pause is over: False, or True as soon as there is a stop."""
        while not self._stop.is_set():
            with self._lock:
                left = self._until - time.monotonic()
            if left <= 0:
                return False
            self._stop.wait(left)
        return True
