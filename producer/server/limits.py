"""Rate limits and quotas of tenants, counted in Redis so that they hold across servers.

Where Redis does not answer, each server counts by itself what it lets through: never no limit at all.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from producer.server.problems import Problem
from producer.server.settings import ServeSettings
from producer.server.tokens import Grant
from workers.config.redis_url import ASKABLE, open_redis
from workers.config.settings import Settings
from workers.telemetry.redaction import masked

log = logging.getLogger(__name__)

KEY = "apf-serve-used"
MINUTE_S, HOUR_S = 60, 3600
#: A Redis that does not answer is left alone for so long.
LEFT_ALONE_S = 5.0
PATIENCE_S = 1.0
#: Windows that a server counts by itself.
KEPT_WINDOWS = 10_000


@dataclass(frozen=True)
class Limit:
    """So much of something in each window of time."""

    what: str
    most: int
    window_s: int


class Counters:
    """Counts by name and window, in Redis and here."""

    def __init__(self, settings: Settings) -> None:
        self._prefix = settings.broker_key_prefix
        self._here: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()
        self._alone_until = 0.0
        #: None where Redis cannot be asked by its URL.
        self.redis: Any = None
        if (settings.broker_url or "").startswith(ASKABLE):
            patience = {"socket_timeout": PATIENCE_S, "socket_connect_timeout": PATIENCE_S}
            self.redis = open_redis(str(settings.broker_url), settings, **patience)

    def add(self, name: str, amount: int, window_s: int) -> int:
        """Add to what was used in this window, and return it: the most that this server or Redis knows of."""
        window = int(time.time() // window_s)
        key = f"{self._prefix}{KEY}.{name}.{window_s}.{window}"
        with self._lock:
            here = self._here[key] = self._here.pop(key, 0) + amount
            while len(self._here) > KEPT_WINDOWS:
                self._here.popitem(last=False)
        return max(here, self._in_redis(key, amount, window_s))

    def _in_redis(self, key: str, amount: int, window_s: int) -> int:
        if self.redis is None or time.monotonic() < self._alone_until:
            return 0
        import redis  # noqa: PLC0415  where there is one

        try:
            with self.redis.pipeline(transaction=False) as pipe:
                pipe.incrby(key, amount)
                pipe.expire(key, 2 * window_s)
                return int(pipe.execute()[0])
        except redis.RedisError as error:
            self._alone_until = time.monotonic() + LEFT_ALONE_S
            log.warning("limits are counted by this server alone, as Redis does not answer: %s", masked(str(error)))
            return 0

    def claim(self, name: str, seconds: int) -> bool:
        """Take a name for so long, for one request of all servers'; True, too, where Redis cannot say."""
        return self._asked(lambda client, key: client.set(key, b"1", nx=True, ex=seconds), name, default=True)

    def release(self, name: str) -> None:
        """Give a claimed name back."""
        self._asked(lambda client, key: client.delete(key), name, default=True)

    def answers(self) -> bool:
        """Return whether Redis answers; True, too, where it cannot be asked."""
        if self.redis is None:
            return True
        import redis  # noqa: PLC0415

        try:
            return bool(self.redis.ping())
        except redis.RedisError:
            return False

    def _asked(self, ask: Any, name: str, *, default: bool) -> bool:
        if self.redis is None:
            return default
        import redis  # noqa: PLC0415

        with suppress(redis.RedisError):
            return bool(ask(self.redis, f"{self._prefix}apf-serve-claim.{name}"))
        return default


class Limits:
    """What each tenant has used, and may use."""

    def __init__(self, counters: Counters, serve: ServeSettings) -> None:
        self._counters, self._serve = counters, serve

    def request(self, grant: Grant) -> None:
        """Count a request; raises Problem (429) where it is one too many."""
        most = grant.requests_per_minute
        most = self._serve.requests_per_minute if most is None else most
        self._use(f"token.{grant.name}", 1, Limit("requests a minute", most, MINUTE_S))

    @contextmanager
    def work(self, grant: Grant, tenant: str, *, photos: int, size: int = 0) -> Iterator[None]:
        """Count photos and bytes that the block has worked on; where it fails, they are given back.

        Raises:
            Problem: 429, they are too many.
        """
        used: list[tuple[str, int]] = []
        try:
            for what, amount in (("photos", photos), ("bytes", size)):
                limit = self._hourly(grant, what)
                if amount and limit.most:
                    self._use(f"tenant.{tenant}.{what}", amount, limit)
                    used.append((f"tenant.{tenant}.{what}", amount))
            yield
        except BaseException:
            for name, amount in used:
                self._counters.add(name, -amount, HOUR_S)
            raise

    def note(self, grant: Grant, tenant: str, *, size: int) -> None:
        """Count bytes that are known once the work is submitted: whoever has used them up waits the next time."""
        limit = self._hourly(grant, "bytes")
        if limit.most and size:
            self._counters.add(f"tenant.{tenant}.bytes", size, limit.window_s)

    def photos_left(self, grant: Grant, tenant: str) -> int | None:
        """Return how many photos the tenant may still have worked on in this hour; None: no limit."""
        limit = self._hourly(grant, "photos")
        if not limit.most:
            return None
        return max(0, limit.most - self._counters.add(f"tenant.{tenant}.photos", 0, limit.window_s))

    def check_bytes(self, grant: Grant, tenant: str) -> None:
        """Raise Problem (429) where the hour's bytes are used up."""
        limit = self._hourly(grant, "bytes")
        if limit.most and self._counters.add(f"tenant.{tenant}.bytes", 0, limit.window_s) >= limit.most:
            raise _too_many(limit)

    def counts_bytes(self, grant: Grant) -> bool:
        """Return whether the tenant's bytes are limited."""
        return bool(self._hourly(grant, "bytes").most)

    def _hourly(self, grant: Grant, what: str) -> Limit:
        given = grant.photos_per_hour if what == "photos" else grant.bytes_per_hour
        usual = self._serve.photos_per_hour if what == "photos" else self._serve.bytes_per_hour
        return Limit(f"{what} an hour", usual if given is None else given, HOUR_S)

    def _use(self, name: str, amount: int, limit: Limit) -> None:
        if not limit.most:
            return
        if self._counters.add(name, amount, limit.window_s) > limit.most:
            self._counters.add(name, -amount, limit.window_s)  # it is refused, and uses nothing up
            raise _too_many(limit)


def _too_many(limit: Limit) -> Problem:
    left_s = limit.window_s - int(time.time()) % limit.window_s
    return Problem(
        HTTPStatus.TOO_MANY_REQUESTS,
        f"the limit of {limit.most} {limit.what} is reached: come again in {left_s} s, ask for less at once, or have "
        "the operator raise it",
        Retry_After=str(left_s),
    )
