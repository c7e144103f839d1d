"""What tests of the listener share: a submit that notes what it is given, and sources that run in a thread."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import redis
from prometheus_client import REGISTRY

from producer.events.batcher import EventBatcher, Gathering
from producer.events.dedupe import NoMarks, RecentlySubmitted, RedisMarks
from producer.events.listener import Source
from producer.events.routes import Route, Routes, parse_routes
from tests.producer.events.samples import s3_record

ROUTES = parse_routes(["s3://uploads=s3://public", "s3://uploads/teamA=s3://public/teamA"])


@dataclass
class Notes:
    """A `Submit` that notes its batches; while `failing` is set it raises that."""

    batches: list[tuple[str, str, tuple[str, ...], str]] = field(default_factory=list)
    failing: Exception | None = None
    tries: int = 0
    #: Keys that are not there.
    gone: set[str] = field(default_factory=set)
    #: Closed, it holds up every submission.
    open: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.open.set()

    def __call__(self, route: Route, photos: Sequence[str], *, tenant: str) -> frozenset[str]:
        self.tries += 1
        assert self.open.wait(30)
        if self.failing:
            raise self.failing
        there = tuple(key for key in photos if key not in self.gone)
        if there:
            self.batches.append((route.source, route.destination, there, tenant))
        return frozenset(photos) - set(there)

    @property
    def keys(self) -> list[str]:
        """All keys that were submitted, as often as they were."""
        return sorted(key for _, _, keys, _ in self.batches for key in keys)


def marks_in(
    client: redis.Redis, prefix: str = "apf:", *, routes: Sequence[Route] = ROUTES, how: str = ""
) -> RedisMarks:
    """Marks as a listener has them."""
    return RedisMarks(client, prefix, Routes(routes), how=how)


@contextmanager
def an_intake(notes: Notes, marks: RecentlySubmitted | None = None, **gathering: Any) -> Iterator[EventBatcher]:
    """A batcher that gathers for a moment only; closed at the end."""
    asked = Gathering(**{"seconds": 0.05, **gathering})
    batcher = EventBatcher(Routes(ROUTES), notes, marks or NoMarks(), asked)
    try:
        yield batcher
    finally:
        notes.open.set()
        batcher.close(10)


@contextmanager
def running(source: Source, batcher: EventBatcher, stop: threading.Event) -> Iterator[None]:
    """The source in a thread, as a listener runs it."""
    thread = threading.Thread(target=source.run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        batcher.close(10)
        thread.join(30)
    assert not thread.is_alive(), "it stops when it is asked to"


def event(*keys: str, name: str = "ObjectCreated:Put", **item: Any) -> str:
    """The body of a message about these keys."""
    return json.dumps({"Records": [s3_record(key, name, **item) for key in keys]})


def counted(name: str, **labels: str) -> float:
    """A metric of this process as it stands."""
    return REGISTRY.get_sample_value(name, labels) or 0.0
