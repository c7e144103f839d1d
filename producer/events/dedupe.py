"""Memory of recent submissions: an event that comes twice costs nothing. Best effort: nothing depends on it.

Redis holds one mark for each object and what is made of it: its name is a digest of bucket and key, and of destination,
recipe and what is done without a face; its value is the ETag that was submitted last. With marks for (bucket, key,
ETag), an object that goes from A to B and back to A within a day would stay at B.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

import redis

from producer.events.models import Created, Removed
from producer.events.routes import Ignored, Routes
from workers.broker.event_marks import mark_name
from workers.config.redis_url import ASKABLE, open_redis
from workers.config.settings import Settings
from workers.errors import SettingsError
from workers.telemetry.redaction import masked

log = logging.getLogger(__name__)

#: Longer than stores and queues usually deliver late; the schedule knows no such limit.
REMEMBERED_S = 24 * 3600


class RecentlySubmitted(Protocol):
    """A memory for what was submitted. No method raises."""

    def seen(self, events: Sequence[Created]) -> list[bool]:
        """For each event, whether it was submitted already."""

    def remember(self, events: Sequence[Created]) -> None:
        """They are submitted: only then, or a crash in between would lose them."""

    def forget(self, events: Sequence[Removed]) -> None:
        """Forget objects that are gone: the same bytes under the same key would be new."""


class NoMarks:
    """Marks that remember nothing: every event counts as new."""

    def seen(self, events: Sequence[Created]) -> list[bool]:
        return [False] * len(events)

    def remember(self, events: Sequence[Created]) -> None:
        pass

    def forget(self, events: Sequence[Removed]) -> None:
        pass


class RedisMarks:
    """Marks in Redis. Where it does not answer, every event counts as new."""

    def __init__(self, client: redis.Redis, prefix: str, routes: Routes, *, how: str) -> None:
        """`prefix`: of all keys, as APF_BROKER_KEY_PREFIX; `how`: what an output depends on besides photo and place."""
        self._client = client
        self._routes = routes
        self._how = how
        self._prefix = prefix

    def seen(self, events: Sequence[Created]) -> list[bool]:
        if not events:
            return []
        try:
            found = self._client.mget([self._name(event.bucket, event.key) for event in events])
        except redis.RedisError as error:
            log.warning("what was submitted before is not known now: Redis does not answer (%s)", error)
            return [False] * len(events)
        # What no ETag tells apart is never taken for the same.
        return [bool(e.etag) and mark == e.etag.encode() for e, mark in zip(events, found, strict=True)]

    def remember(self, events: Sequence[Created]) -> None:
        def mark(pipe: redis.client.Pipeline) -> None:
            for event in events:
                pipe.set(self._name(event.bucket, event.key), event.etag, ex=REMEMBERED_S)

        self._do(mark)

    def forget(self, events: Sequence[Removed]) -> None:
        if events:
            self._do(lambda pipe: pipe.delete(*(self._name(event.bucket, event.key) for event in events)))

    def _do(self, commands: Callable[[redis.client.Pipeline], object]) -> None:
        with suppress(redis.RedisError), self._client.pipeline(transaction=False) as pipe:
            commands(pipe)
            pipe.execute()

    def _name(self, bucket: str, key: str) -> str:
        place = self._routes.find(bucket, key)
        # Another listener may put the same photos elsewhere, or protect them in another way.
        destination = "" if isinstance(place, Ignored) else place[0].destination
        return mark_name(self._prefix, bucket, key, destination, self._how)


def redis_client(url: str, settings: Settings) -> redis.Redis:
    """Return a client whose every call ends: after 5 s without a connection, or 15 s without an answer.

    Raises:
        SettingsError: redis-py cannot ask at such a URL, as at Sentinel's.
    """
    if not url.startswith(ASKABLE):
        raise SettingsError(f"{masked(url)} begins with none of {', '.join(ASKABLE)}: set APF_BROKER_URL to one")
    return open_redis(url, settings, socket_timeout=15, socket_connect_timeout=5, health_check_interval=30)
