"""Names in Redis of what listeners have submitted of late (`producer.events.dedupe`), and how these are taken away."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress

from workers.config.redis_url import ASKABLE, open_redis
from workers.config.settings import Settings
from workers.store.urls import bucket_and_prefix

#: Names that are deleted at once.
AT_ONCE = 1000

#: Source, recipe's id, what is done without a face, and with a weak one.
Submitted = tuple[str, str, str, str]


def mark_name(prefix: str, bucket: str, key: str, destination: str, how: str) -> str:
    """Return the name of an object's mark.

    Args:
        prefix: as APF_BROKER_KEY_PREFIX.
        how: as `how`.
    """
    told = json.dumps([bucket, key, destination, how])
    return f"{prefix}listen:seen:{hashlib.sha256(told.encode()).hexdigest()[:32]}"


def how(recipe_id: str, no_face: str, on_weak: str) -> str:
    """Return what outputs depend on besides photo and place; with the default as of old, so that older marks count."""
    return f"{recipe_id} {no_face}" + (f" {on_weak}" if on_weak != "publish" else "")


def forget_events(destination: str, submitted: Iterable[Submitted], keys: Sequence[str], settings: Settings) -> None:
    """Take away the marks of photos in all ways in which they were submitted; silent where Redis is none or down: marks
    are gone after a day.
    """
    if not (settings.broker_url and settings.broker_url.startswith(ASKABLE)):
        return
    names = []
    for source, recipe_id, no_face, on_weak in submitted:
        if source.startswith("file:"):
            continue
        bucket, prefix = bucket_and_prefix(source)
        for key in keys:
            whole = f"{prefix}/{key}" if prefix else key
            done = how(recipe_id, no_face, on_weak)
            names.append(mark_name(settings.broker_key_prefix, bucket, whole, destination, done))
    from redis import RedisError  # noqa: PLC0415  a command without a queue does without

    with suppress(RedisError), open_redis(settings.broker_url, settings, socket_timeout=15) as client:
        for first in range(0, len(names), AT_ONCE):
            client.delete(*names[first : first + AT_ONCE])
