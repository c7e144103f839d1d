"""A bound on the messages that a source has taken and is not done with."""

from __future__ import annotations

import threading

from producer.events.metrics import IN_FLIGHT


class InFlightLimit:
    """Places for messages. Safe to share between threads."""

    def __init__(self, places: int, source: str) -> None:
        self._free = places
        self._places = places
        self._changed = threading.Condition()
        self._gauge = IN_FLIGHT.labels(source)

    def wait_for(self, places: int, within_s: float) -> bool:
        """Return whether so many places are free, now or soon."""
        with self._changed:
            return self._changed.wait_for(lambda: self._free >= places, within_s)

    def wait_until_empty(self, within_s: float) -> bool:
        """Return whether all that was taken is done with, now or soon."""
        return self.wait_for(self._places, within_s)

    def enter(self) -> None:
        """Count a message that is taken."""
        with self._changed:
            self._free -= 1
            self._gauge.inc()

    def leave(self) -> None:
        """Count off a message that is done with."""
        with self._changed:
            self._free += 1
            self._gauge.dec()
            self._changed.notify_all()
