"""Whether the services behind the server answer, asked once for however many ask at the same time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: Anybody may ask; queue and store are asked no more often.
EVERY_S = 1.0


class Readiness:
    """What was found last. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[str, str] = {}
        self._at = 0.0

    def look(self, ask: Callable[[], dict[str, str]]) -> dict[str, str]:
        """Return what `ask` finds, or has found a moment ago."""
        with self._lock:
            if time.monotonic() - self._at > EVERY_S:
                self._found, self._at = ask(), time.monotonic()
            return self._found
