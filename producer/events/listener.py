"""One process with a batcher and its sources: started together, stopped together within the grace period."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from producer.events.batcher import EventBatcher

log = logging.getLogger(__name__)

#: Of the grace period, what is left for sources to give back what they hold.
GIVE_BACK_S = 2.0


class Source(Protocol):
    """Takes messages somewhere, and hands them to the batcher."""

    def run(self) -> None:
        """Until the stop, and then until nothing is in its hands any more."""


def listen(sources: Sequence[Source], batcher: EventBatcher, stop: threading.Event, *, grace_s: float) -> bool:
    """Run until SIGTERM or SIGINT, or until a source fails; then finish what is in hand.

    Returns whether all went well.
    """
    broken = threading.Event()
    threads = [_thread(source, stop, broken) for source in sources]
    with _stopped_by_signals(stop):
        for thread in threads:
            thread.start()
        while not stop.wait(1):  # short, so that signals are looked at
            pass
    log.info("stopping: up to %.0f s for what is in hand", grace_s)
    deadline = time.monotonic() + grace_s
    done = batcher.close(max(0.5, grace_s - GIVE_BACK_S))
    for thread in threads:
        thread.join(max(0.5, deadline - time.monotonic()))
        done = done and not thread.is_alive()
    log.info("stopped%s", "" if done else ", and what was in hand comes again")
    return not broken.is_set()


def _thread(source: Source, stop: threading.Event, broken: threading.Event) -> threading.Thread:
    def guarded() -> None:
        try:
            source.run()
        except Exception:  # a process without one of its sources looks well and is not
            log.exception("%s broke, so the listener stops", type(source).__name__)
            broken.set()
            stop.set()

    return threading.Thread(target=guarded, name=type(source).__name__, daemon=True)


@contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
