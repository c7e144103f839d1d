"""Events from a Redis list, as MinIO writes them. An entry is kept until its photos lie in a ledger.

Each listener has a list of its own for what it has in hand, and a key that says that it lives. What a dead one left
there goes back to the front of the queue, by whichever listener sees it first. All keys begin with the list's own name.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections import Counter
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

import redis

from producer.events.backoff import Backoff
from producer.events.batcher import EventBatcher, Stopping, Taken
from producer.events.in_flight import InFlightLimit
from producer.events.metrics import REFUSED
from producer.events.models import MalformedEvent, unforeseen
from workers.telemetry.redaction import masked

log = logging.getLogger(__name__)

NAME = "redis"
#: A listener that did not say so for so long is dead.
ALIVE_S = 60
#: How long to wait for an entry before looking whether there is a stop.
WAIT_S = 1.0
#: After this long the dead are looked for again, and this one says that it lives.
MIND_S = 10.0
#: Entries taken and not yet done with.
PLACES = 500
#: Refused entries that are kept to look at, and to be put back.
KEPT_REFUSED = 10_000
#: An entry that fails so often, for a reason that does not pass by itself, is refused.
MAX_TRIES = 10

#: Only where the entry is ours still: another listener may have held this one for dead, and have it.
_TO_THE_END = """
if redis.call('lrem', KEYS[1], 1, ARGV[1]) == 1 then redis.call('rpush', KEYS[2], ARGV[1]) end
"""


class RedisSource:
    """One list, read from its left end by one thread."""

    def __init__(self, client: redis.Redis, key: str, intake: EventBatcher, stop: threading.Event) -> None:
        self._client: Any = client  # its stubs know text alone, and entries may be any bytes
        self._key = key
        self._intake = intake
        self._stop = stop
        self._pause = Backoff(stop)
        self._room = InFlightLimit(PLACES, NAME)
        self._id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._mine = self._taken_by(self._id)
        self._minded = 0.0
        #: By entry, how often; entries of the same text are the same for Redis, too.
        self._in_hand: Counter[bytes] = Counter()
        self._lock = threading.Lock()
        #: How often each failed that may be hopeless.
        self._tries: Counter[bytes] = Counter()

    def run(self) -> None:
        """Read until the stop; returns when nothing is in hand any more."""
        while not self._pause.wait():
            try:
                if time.monotonic() - self._minded > MIND_S:
                    self._mind()
                if self._room.wait_for(1, within_s=WAIT_S):
                    self._next()
            except redis.RedisError as error:
                log.error("Redis cannot be read, and is asked again soon: %s", masked(str(error)))
                self._pause.failed()
        self._room.wait_until_empty(ALIVE_S)
        with suppress(redis.RedisError):
            self._bring_back(self._id)

    def _next(self) -> None:
        entry = self._client.blmove(self._key, self._mine, WAIT_S, "LEFT", "RIGHT")
        if entry is not None:
            self._take(entry)

    def _take(self, entry: bytes) -> None:
        self._room.enter()
        self._count(entry, 1)
        try:
            future = self._intake.take(entry, NAME)
        except MalformedEvent as error:
            self._refuse(entry, str(error), "malformed")
        except Stopping:
            self._leave(entry)  # it is brought back at the end
        except Exception as error:  # or it would be the first again at each start, and end each listener
            self._refuse(entry, unforeseen(error), "unforeseen")
        else:
            future.add_done_callback(partial(self._settle, entry))

    def _settle(self, entry: bytes, future: Future[Taken]) -> None:
        try:
            error = future.exception()
            if error is None:
                self._pause.succeeded()
                self._tries.pop(entry, None)
                self._client.lrem(self._mine, 1, entry)
            elif self._is_hopeless(entry, error):
                self._put_aside(entry, str(error), "hopeless")
            else:
                self._pause.failed()
                self._to_the_end(entry)
        except redis.RedisError as error:
            log.warning("an entry comes again after the next start: %s", masked(str(error)))
        finally:
            self._leave(entry)

    def _to_the_end(self, entry: bytes) -> None:
        """Behind the others, which may be for another route."""
        self._client.eval(_TO_THE_END, 2, self._mine, self._key, entry)

    def _is_hopeless(self, entry: bytes, error: BaseException) -> bool:
        if getattr(error, "transient", False):
            return False
        self._tries[entry] += 1
        if self._tries[entry] < MAX_TRIES:
            return False
        del self._tries[entry]
        return True

    def _refuse(self, entry: bytes, why: str, reason: str) -> None:
        try:
            self._put_aside(entry, why, reason)
        finally:
            self._leave(entry)

    def _put_aside(self, entry: bytes, why: str, reason: str) -> None:
        REFUSED.labels(NAME, reason).inc()
        refused = f"{self._key}:refused"
        log.warning("an entry of %s is refused, and put into %s: %s", self._key, refused, why)
        with self._client.pipeline(transaction=True) as pipe:
            pipe.lpush(refused, entry)
            pipe.ltrim(refused, 0, KEPT_REFUSED - 1)
            pipe.lrem(self._mine, 1, entry)
            pipe.execute()

    def _mind(self) -> None:
        """Say that this one lives, and bring back what the dead had in hand."""
        with self._client.pipeline(transaction=True) as pipe:
            pipe.sadd(f"{self._key}:listeners", self._id)
            pipe.set(self._alive(self._id), "1", ex=ALIVE_S)
            pipe.smembers(f"{self._key}:listeners")
            listeners = pipe.execute()[2]
        for name in map(bytes.decode, listeners):
            if name != self._id and not self._client.exists(self._alive(name)):
                count = self._bring_back(name)
                log.warning("listener %s is dead: %d entries that it had in hand are read again", name, count)
        self._find_strays()
        self._minded = time.monotonic()

    def _find_strays(self) -> None:
        """Entries whose taking Redis did, and could not tell: the connection broke before its answer."""
        with self._lock:
            in_hand = self._in_hand.copy()
        if self._client.llen(self._mine) <= in_hand.total():
            return
        for entry in Counter(self._client.lrange(self._mine, 0, -1)) - in_hand:
            self._to_the_end(entry)

    def _leave(self, entry: bytes) -> None:
        self._count(entry, -1)
        self._room.leave()

    def _count(self, entry: bytes, by: int) -> None:
        with self._lock:
            self._in_hand[entry] += by
            if not self._in_hand[entry]:
                del self._in_hand[entry]

    def _bring_back(self, listener: str) -> int:
        """Its entries, to where they were taken from; returns how many."""
        count = 0
        while self._client.lmove(self._taken_by(listener), self._key, "RIGHT", "LEFT") is not None:
            count += 1
        self._client.srem(f"{self._key}:listeners", listener)
        self._client.delete(self._alive(listener))
        return count

    def _taken_by(self, listener: str) -> str:
        return f"{self._key}:taken:{listener}"

    def _alive(self, listener: str) -> str:
        return f"{self._key}:alive:{listener}"
