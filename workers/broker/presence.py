"""Presence of workers in Redis: which queues each one listens to; entries stay for a week after it has gone.

A sorted set: a member is one worker with its queues, its score the moment at which it was last seen, by Redis's clock.
Nothing but what people are told depends on it. Loads no Celery; what workers do is in `workers.broker.heartbeat`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from workers.broker.queues import all_queues
from workers.config.redis_url import ASKABLE, open_redis
from workers.config.settings import Settings
from workers.core.records import BULK, INTERACTIVE
from workers.errors import WorkerError
from workers.telemetry.redaction import masked

if TYPE_CHECKING:
    import redis
    from celery import Celery

KEY = "apf-workers"
#: A worker says so often that it listens, and is taken for gone when it has not for the second.
BEAT_S, GONE_AFTER_S = 10.0, 35.0
#: Workers that have gone are known for so long, and so many of them.
KEPT_S, KEPT = 7 * 24 * 3600, 1000
#: A command waits no longer than this for Redis, and for workers that keep no record.
PATIENCE_S, ANSWER_S = 2.0, 1.0


class NotKnown(WorkerError):
    """Raised when Redis cannot say which workers listen."""

    transient = True


@dataclass(frozen=True)
class Listener:
    """A worker, and when it was last seen."""

    worker: str
    queues: frozenset[str]
    seen_at: datetime
    ago: timedelta
    #: It was asked to stop, and did; else it listens, or was killed or cut off.
    stopped: bool = False

    @property
    def listens(self) -> bool:
        return not self.stopped and self.ago.total_seconds() < GONE_AFTER_S


@dataclass(frozen=True)
class UnservedQueues:
    """Queues that no worker listens to, and the last one that did; None: none did in the last week."""

    queues: tuple[str, ...]
    last: Listener | None

    def as_dict(self) -> dict[str, object]:
        seen = self.last and self.last.seen_at.isoformat(timespec="seconds")
        worker, stopped = (self.last.worker, self.last.stopped) if self.last else (None, None)
        return {"queues": list(self.queues), "last_seen": seen, "worker": worker, "stopped": stopped}

    def __str__(self) -> str:
        what = "queues" if len(self.queues) > 1 else "queue"
        return f"no worker is listening to {what} {', '.join(by_lane(self.queues))} ({_last(self.last)})"


def note(client: redis.Redis, prefix: str, worker: str, queues: Iterable[str], *, stopped: bool = False) -> None:
    """Write that a worker listens now, or that it stops; raises RedisError."""
    whole, micro = client.time()
    key, now = f"{prefix}{KEY}", whole + micro / 1e6
    with client.pipeline() as pipe:
        pipe.zrem(key, _member(worker, queues, stopped=not stopped))
        pipe.zadd(key, {_member(worker, queues, stopped=stopped): now})
        pipe.zremrangebyscore(key, "-inf", now - KEPT_S)
        pipe.zremrangebyrank(key, 0, -KEPT - 1)
        pipe.expire(key, KEPT_S)
        pipe.execute()


def listeners(client: redis.Redis, prefix: str) -> list[Listener]:
    """Workers that listen or did, the one seen last first; raises RedisError."""
    whole, micro = client.time()
    now = datetime.fromtimestamp(whole + micro / 1e6, UTC)
    found: Any = client.zrevrange(f"{prefix}{KEY}", 0, -1, withscores=True)
    return [one for member, score in found if (one := _listener(member, datetime.fromtimestamp(score, UTC), now))]


def unserved(queues: Iterable[str], found: Sequence[Listener]) -> list[UnservedQueues]:
    """Which of these queues no worker listens to, together where the same worker was the last.

    Args:
        found: as `listeners` gives them.
    """
    heard = {queue for one in found if one.listens for queue in one.queues}
    groups: dict[Listener | None, list[str]] = {}
    for queue in queues:
        if queue not in heard:
            groups.setdefault(next((one for one in found if queue in one.queues), None), []).append(queue)
    return [UnservedQueues(tuple(names), last) for last, names in groups.items()]


def find_unserved(client: redis.Redis, queues: Sequence[str], settings: Settings) -> list[UnservedQueues]:
    """Which of these queues no worker listens to. Workers of older versions keep no record, and are asked.

    Raises:
        RedisError, BrokerError: Redis does not answer, or refuses.
    """
    found = listeners(client, settings.broker_key_prefix)
    missing = unserved(queues, found)
    if not missing:
        return []
    from workers.broker.app import make_app  # noqa: PLC0415  as a rule it is not needed

    answered = _answered(make_app(settings))
    return unserved([queue for queue in queues if queue not in answered], found)


def find_unserved_quickly(queues: Sequence[str], settings: Settings) -> list[UnservedQueues]:
    """As `find_unserved`, for callers that can do without: within some seconds, whatever Redis does.

    Raises:
        NotKnown: Redis does not answer, or refuses.
    """
    import redis  # noqa: PLC0415  much to load, and as a rule nothing is asked

    never = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
    patience = {"socket_timeout": PATIENCE_S, "socket_connect_timeout": PATIENCE_S, "retry": never}
    try:
        with closing(open_redis(str(settings.broker_url), settings, **patience)) as client:
            return find_unserved(client, queues, settings)
    except (redis.RedisError, WorkerError) as error:
        raise NotKnown(f"whether a worker is listening is not known: {masked(str(error))}") from error


def count_listening(lane: str, settings: Settings, client: redis.Redis | None = None) -> int:
    """Return how many workers listen to a lane; those of older versions keep no record, and do not count.

    Args:
        client: asked where there is one; else one is opened.

    Raises:
        NotKnown: Redis does not answer, or cannot be asked.
    """
    if not can_be_asked(settings):
        raise NotKnown("workers that listen are not known: only redis:// and rediss:// can be asked")
    from redis import RedisError  # noqa: PLC0415  as above

    options = {"socket_timeout": PATIENCE_S, "socket_connect_timeout": PATIENCE_S}
    opened = nullcontext(client) if client else closing(open_redis(str(settings.broker_url), settings, **options))
    try:
        with opened as asked:
            found = listeners(asked, settings.broker_key_prefix)
    except RedisError as error:
        raise NotKnown(f"workers that listen are not known: Redis does not answer ({masked(str(error))})") from error
    return sum(one.listens and lane in one.queues for one in found)


def can_be_asked(settings: Settings) -> bool:
    """Return whether workers are outside of this command, on a Redis that can be asked after them."""
    return bool(settings.broker_url) and str(settings.broker_url).startswith(ASKABLE)


def by_lane(queues: Sequence[str]) -> list[str]:
    """Return the names of queues, with a lane's for all of its own, and few of many."""
    found: list[str] = []
    for lane in (INTERACTIVE, BULK):
        mine = [queue for queue in queues if queue.partition(".")[0] == lane]
        whole = set(mine) >= set(all_queues([lane]))
        found += [lane] if whole else mine[:3]
        if not whole and len(mine) > 3:
            found.append(f"{len(mine) - 3} more of {lane}")
    return found


def _answered(app: Celery) -> set[str]:
    from workers.broker.client import explained  # noqa: PLC0415

    with explained(app):
        answers = app.control.inspect(timeout=ANSWER_S).active_queues() or {}
    return {str(queue["name"]) for queues in answers.values() for queue in queues}


def _member(worker: str, queues: Iterable[str], *, stopped: bool) -> str:
    return json.dumps({"worker": worker, "queues": sorted(queues), "stopped": stopped}, separators=(",", ":"))


def _listener(member: bytes, seen_at: datetime, now: datetime) -> Listener | None:
    """None where it is nothing that a worker wrote."""
    try:
        told: dict[str, Any] = json.loads(member)
        worker, queues = str(told["worker"]), frozenset(map(str, told["queues"]))
        return Listener(worker, queues, seen_at, now - seen_at, stopped=bool(told.get("stopped")))
    except (ValueError, KeyError, TypeError):
        return None


def _last(last: Listener | None) -> str:
    if last is None:
        return "none was seen in the last week"
    how = "stopped" if last.stopped else "was last seen"
    local = last.seen_at.astimezone()
    at = f"{local:%H:%M}" if last.ago < timedelta(hours=12) else f"{local:%Y-%m-%d %H:%M}"
    return f"{last.worker} {how} at {at}, {_ago(last.ago)} ago"


def _ago(ago: timedelta) -> str:
    seconds = max(0, int(ago.total_seconds()))
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * size or (unit == "minute" and seconds >= size):
            count = seconds // size
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return f"{seconds} s"
