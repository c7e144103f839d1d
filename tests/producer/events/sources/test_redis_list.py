"""Events from a real Redis list: none is lost, whoever dies, and none is read for ever."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from typing import Any

import pytest
import redis

from producer.events.batcher import EventBatcher
from producer.events.dedupe import redis_client
from producer.events.sources import redis_list
from producer.events.sources.redis_list import RedisSource
from tests.conftest import RedisServer
from tests.producer.events import samples
from tests.producer.events.helpers import Notes, an_intake, event, marks_in, running, until
from workers.config.settings import Settings
from workers.errors import Forbidden, StoreUnavailable
from workers.telemetry.redaction import install

KEY = "apf:events"


@pytest.fixture
def server(redis_server: RedisServer) -> Iterator[Any]:
    with closing(redis.Redis(port=redis_server.port)) as client:
        yield client


def source(redis_server: RedisServer, intake: EventBatcher, stop: threading.Event) -> RedisSource:
    return RedisSource(redis_client(redis_server.url, Settings()), KEY, intake, stop)


def taken(server: Any) -> list[bytes]:
    """All that listeners have in hand."""
    return [entry for name in server.scan_iter(f"{KEY}:taken:*") for entry in server.lrange(name, 0, -1)]


def test_entries_are_submitted_and_gone(redis_server: RedisServer, server: Any) -> None:
    """As MinIO writes them, and as anybody may; in the list's own order; nothing but the list's own keys is touched."""
    notes, stop = Notes(), threading.Event()
    server.rpush(KEY, json.dumps(samples.MINIO_REDIS), event("b.jpg"), event("notes.txt"), event("b.jpg"))
    with an_intake(notes) as intake:
        reader = source(redis_server, intake, stop)
        with running(reader, intake, stop):
            until(lambda: len(notes.keys) >= 2 and not server.llen(KEY) and not taken(server), 20, "all are done")
    assert set(notes.keys) == {"ann/hello world.jpg", "b.jpg"}
    assert list(server.scan_iter("*")) == [], "a listener that stops leaves nothing"


def test_what_is_no_event_is_put_aside(redis_server: RedisServer, server: Any) -> None:
    """To be looked at; what comes after it is read."""
    notes, stop = Notes(), threading.Event()
    server.rpush(KEY, b"\xff\x00 no json", "{}", event("a.jpg"))
    with an_intake(notes) as intake, running(source(redis_server, intake, stop), intake, stop):
        until(lambda: notes.keys == ["a.jpg"] and not taken(server), 20, "the good one is done")
    assert server.lrange(f"{KEY}:refused", 0, -1) == [b"{}", b"\xff\x00 no json"]


def test_what_cannot_be_submitted_is_tried_again_behind_the_others(
    redis_server: RedisServer, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is down loses nothing; entries wait in the list, and not in this process."""
    monkeypatch.setattr("producer.events.backoff.FIRST_S", 0.2)
    notes, stop = Notes(failing=StoreUnavailable("down")), threading.Event()
    server.rpush(KEY, event("a.jpg"))
    with an_intake(notes) as intake, running(source(redis_server, intake, stop), intake, stop):
        until(lambda: notes.tries >= 2, 20, "it is tried again")
        server.rpush(KEY, event("b.jpg"))
        notes.failing = None
        until(lambda: {"a.jpg", "b.jpg"} <= set(notes.keys) and not taken(server), 20, "both are done")
    assert not server.llen(KEY)


def test_what_fails_for_good_is_put_aside_in_the_end(
    redis_server: RedisServer, server: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After some tries, so that a right that is given meanwhile still helps; the log says why, and names no photo."""
    monkeypatch.setattr("producer.events.backoff.FIRST_S", 0.01)
    monkeypatch.setattr("producer.events.backoff.LONGEST_S", 0.05)
    monkeypatch.setattr(redis_list, "MAX_TRIES", 3)
    notes, stop = Notes(failing=Forbidden("no right to read 'anna/x.jpg'")), threading.Event()
    server.rpush(KEY, event("anna/x.jpg"))
    before = logging.getLogRecordFactory()
    install()
    with an_intake(notes) as intake, running(source(redis_server, intake, stop), intake, stop):
        until(lambda: server.llen(f"{KEY}:refused"), 20, "it is put aside")
        assert notes.tries == 3
    logging.setLogRecordFactory(before)
    assert "no right to read photo-" in caplog.text
    assert "anna" not in caplog.text
    assert (server.llen(KEY), taken(server)) == (0, [])


def test_a_user_that_may_touch_our_keys_alone_is_enough(redis_server: RedisServer, server: Any) -> None:
    """The ACL of SECURITY.md, and marks in the same Redis."""
    server.execute_command(
        *"ACL SETUSER apf on >secret ~apf:* &* +@all -@dangerous +info -@admin".split()  # noqa: SIM905
    )
    url = redis_server.url.replace("//", "//apf:secret@")
    notes, stop = Notes(), threading.Event()
    server.rpush(KEY, event("a.jpg"), "no event", event("a.jpg"), event("b.jpg"))
    with (
        closing(redis_client(url, Settings())) as client,
        an_intake(notes, marks_in(client), seconds=0) as intake,
        running(RedisSource(client, KEY, intake, stop), intake, stop),
    ):
        until(lambda: {"a.jpg", "b.jpg"} <= set(notes.keys) and not taken(server), 20, "all are done")
        assert server.llen(f"{KEY}:refused") == 1
        assert server.exists(f"{KEY}:listeners")
    server.execute_command("ACL", "DELUSER", "apf")
    assert not server.exists(f"{KEY}:listeners")


def test_a_stop_leaves_what_is_not_done_in_the_list(redis_server: RedisServer, server: Any) -> None:
    """At its front, for the next listener."""
    notes, stop = Notes(failing=StoreUnavailable("down")), threading.Event()
    server.rpush(KEY, event("a.jpg"))
    with an_intake(notes) as intake, running(source(redis_server, intake, stop), intake, stop):
        until(lambda: notes.tries, 20, "it is tried")
    assert server.lrange(KEY, 0, -1) == [event("a.jpg").encode()]
    assert taken(server) == []


def test_what_a_dead_listener_had_in_hand_is_read_again(
    redis_server: RedisServer, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what a living one has is left to it."""
    monkeypatch.setattr(redis_list, "MIND_S", 0.2)
    server.sadd(f"{KEY}:listeners", "dead", "alive")
    server.set(f"{KEY}:alive:alive", "1", ex=60)
    server.rpush(f"{KEY}:taken:dead", event("1.jpg"), event("2.jpg"))
    server.rpush(f"{KEY}:taken:alive", event("3.jpg"))
    notes, stop = Notes(), threading.Event()
    with an_intake(notes) as intake, running(source(redis_server, intake, stop), intake, stop):
        until(lambda: notes.keys == ["1.jpg", "2.jpg"], 20, "both are submitted")
        server.delete(f"{KEY}:alive:alive")  # it dies, too
        until(lambda: notes.keys == ["1.jpg", "2.jpg", "3.jpg"], 20, "so is the third")
    assert server.smembers(f"{KEY}:listeners") == set()


def test_an_entry_that_was_taken_unawares_is_found(
    redis_server: RedisServer, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection broke when Redis had moved it and not yet said so."""
    monkeypatch.setattr(redis_list, "MIND_S", 0.2)
    notes, stop = Notes(), threading.Event()
    with an_intake(notes) as intake:
        reader = source(redis_server, intake, stop)
        with running(reader, intake, stop):
            server.rpush(reader._mine, event("a.jpg"))
            until(lambda: notes.keys == ["a.jpg"] and not taken(server), 20, "it is done")


def test_an_entry_that_another_has_taken_over_is_not_doubled(redis_server: RedisServer, server: Any) -> None:
    """Our own was held for dead while it submitted, and fails now: the entry is no longer its own to put back."""
    notes, stop = Notes(failing=StoreUnavailable("down")), threading.Event()
    notes.open.clear()
    server.rpush(KEY, event("a.jpg"))
    with an_intake(notes) as intake:
        reader = source(redis_server, intake, stop)
        with running(reader, intake, stop):
            until(lambda: notes.tries == 1, 20, "it is being submitted")
            server.lmove(reader._mine, "elsewhere", "LEFT", "LEFT")
            notes.open.set()
            until(lambda: reader._room.wait_until_empty(0), 20, "it failed")
    assert server.llen(KEY) == 0
    assert server.llen("elsewhere") == 1


def test_a_redis_that_restarts_is_waited_for(
    redis_server: RedisServer, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries that came before are read after."""
    monkeypatch.setattr("producer.events.backoff.FIRST_S", 0.2)
    notes, stop = Notes(), threading.Event()
    with an_intake(notes) as intake, running(source(redis_server, intake, stop), intake, stop):
        redis_server.kill()
        redis_server.start()
        server.rpush(KEY, event("a.jpg"))
        until(lambda: notes.keys == ["a.jpg"] and not server.llen(KEY), 40, "it is read")


def test_no_entry_stops_the_listener(redis_server: RedisServer, server: Any, caplog: pytest.LogCaptureFixture) -> None:
    """What nobody foresaw is put aside, and not read first at the next start; its words are not logged."""
    notes, stop = Notes(), threading.Event()
    half = event("a.jpg", eTag="\ud800")
    server.rpush(KEY, "bug", half, event("b.jpg"))
    with an_intake(notes) as intake:
        take = intake.take

        def breaks(body: bytes | str, source: str) -> Future[int]:
            if body == b"bug":
                raise ValueError("ann/private.jpg")
            return take(body, source)

        intake.take = breaks  # type: ignore[method-assign]
        with running(source(redis_server, intake, stop), intake, stop):
            until(lambda: notes.keys == ["b.jpg"] and not taken(server), 20, "the good one is done")
    assert server.lrange(f"{KEY}:refused", 0, -1) == [half.encode(), b"bug"]
    assert "ValueError in" in caplog.text
    assert "private" not in caplog.text
