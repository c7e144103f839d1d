"""Events are gathered into batches, once each, and a message is done with only when all its photos are."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing

import pytest
import redis

from producer.events.batcher import NotSubmitted, Stopping
from producer.events.dedupe import REMEMBERED_S, RedisMarks, redis_client
from producer.events.models import MalformedEvent
from producer.events.routes import Route, parse_routes
from tests.conftest import RedisServer
from tests.producer.events.helpers import Notes, an_intake, counted, event, marks_in
from tests.waiting import until
from workers.config.settings import Settings
from workers.errors import Forbidden, StoreUnavailable


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def marks(redis_server: RedisServer) -> Iterator[RedisMarks]:
    with closing(redis.Redis(port=redis_server.port)) as client:
        yield marks_in(client)


def test_events_of_a_moment_are_one_batch_for_each_route(notes: Notes) -> None:
    """One batch for a route, however many messages; an object that comes twice is in it once."""
    with an_intake(notes, seconds=0.3) as batcher:
        futures = [batcher.take(event(key), "http") for key in ("b.jpg", "a+b.jpg", "teamA/c.jpg", "b.jpg")]
        assert [future.result(10).photos for future in futures] == [1, 1, 1, 1]
    assert sorted(notes.batches) == [
        ("s3://uploads", "s3://public", ("a b.jpg", "b.jpg"), ""),
        ("s3://uploads/teamA", "s3://public/teamA", ("c.jpg",), ""),
    ]


def test_tenants_have_batches_of_their_own(notes: Notes) -> None:
    """Named by the first folder below the source."""
    with an_intake(notes, seconds=0.2, tenant_segments=1) as batcher:
        batcher.take(event("ann/1.jpg", "bob/2.jpg", "ann/3.jpg", "4.jpg"), "http").result(10)
    found = {tenant: keys for _, _, keys, tenant in notes.batches}
    assert found == {"ann": ("ann/1.jpg", "ann/3.jpg"), "bob": ("bob/2.jpg",), "": ("4.jpg",)}


def test_a_full_group_does_not_wait(notes: Notes) -> None:
    """It is submitted at its size; the rest after its time."""
    with an_intake(notes, seconds=60, photos=3) as batcher:
        batcher.take(event("1.jpg", "2.jpg", "3.jpg"), "http").result(5)
        batcher.take(event("4.jpg"), "http")
    assert [keys for _, _, keys, _ in notes.batches] == [("1.jpg", "2.jpg", "3.jpg"), ("4.jpg",)]


def test_what_is_not_to_be_submitted_is_done_at_once(notes: Notes) -> None:
    """Outputs, other buckets, text files and removals are counted, and their message may go."""
    before = counted("apf_listen_events_total", source="sqs", result="own_output")
    with an_intake(notes) as batcher:
        bodies = [event("a.txt"), event("a.jpg", name="ObjectRemoved:Delete"), event(".apf/a.jpg")]
        bodies.append(event("a.jpg").replace('"uploads"', '"public"'))
        assert [batcher.take(body, "sqs").result(0).photos for body in bodies] == [0, 0, 0, 0]
        with pytest.raises(MalformedEvent):
            batcher.take("{}", "sqs")
    assert notes.batches == []
    assert counted("apf_listen_events_total", source="sqs", result="own_output") == before + 1


def test_an_event_that_comes_twice_is_submitted_once(notes: Notes, marks: RedisMarks) -> None:
    """By bucket, key and ETag; remembered for a day in a key with the prefix that ACLs want."""
    with an_intake(notes, marks) as batcher:
        assert batcher.take(event("a.jpg"), "http").result(10).photos == 1
        assert batcher.take(event("a.jpg"), "sqs").result(10).photos == 0
        assert batcher.take(event("teamA/a.jpg"), "http").result(10).photos == 1
    assert len(notes.batches) == 2
    keys = marks._client.keys()
    assert all(key.startswith(b"apf:listen:seen:") for key in keys)
    assert all(REMEMBERED_S - 60 < marks._client.ttl(key) <= REMEMBERED_S for key in keys)


def test_what_another_listener_makes_of_a_photo_is_no_duplicate(notes: Notes, marks: RedisMarks) -> None:
    """Another destination, another recipe, or another way without a face: its own output is still missing."""
    elsewhere = marks_in(marks._client, routes=parse_routes(["s3://uploads=s3://elsewhere"]))
    otherwise = marks_in(marks._client, how="strong copy")
    for each in (marks, elsewhere, otherwise):
        with an_intake(notes, each) as batcher:
            assert batcher.take(event("a.jpg"), "http").result(10).photos == 1
            assert batcher.take(event("a.jpg"), "http").result(10).photos == 0


def test_a_photo_that_changes_is_submitted_again(notes: Notes, marks: RedisMarks) -> None:
    """Also when it changes back: the output is of the version between."""
    with an_intake(notes, marks) as batcher:
        for etag in ("A", '"B"', "A", "A"):
            batcher.take(event("a.jpg", eTag=etag), "http").result(10)
    assert notes.keys == ["a.jpg"] * 3


def test_a_photo_that_was_removed_is_new_again(notes: Notes, marks: RedisMarks) -> None:
    """The same bytes under the same key: a platform that removes both wants both back."""
    with an_intake(notes, marks) as batcher:
        for name in ("ObjectCreated:Put", "ObjectRemoved:Delete", "ObjectCreated:Put"):
            batcher.take(event("a.jpg", name=name), "http").result(10)
    assert notes.keys == ["a.jpg"] * 2


def test_without_an_etag_nothing_is_a_duplicate(notes: Notes, marks: RedisMarks) -> None:
    """Two versions could not be told apart."""
    with an_intake(notes, marks) as batcher:
        for _ in range(2):
            batcher.take(event("a.jpg", eTag=""), "http").result(10)
    assert notes.keys == ["a.jpg"] * 2


@pytest.mark.parametrize("error", [StoreUnavailable("the store is down"), ZeroDivisionError("a bug")])
def test_what_was_not_submitted_is_not_remembered(notes: Notes, marks: RedisMarks, error: Exception) -> None:
    """The source is told, keeps its message, and the next try succeeds."""
    with an_intake(notes, marks) as batcher:
        notes.failing = error
        with pytest.raises((StoreUnavailable, NotSubmitted)):
            batcher.take(event("a.jpg"), "http").result(10)
        notes.failing = None
        assert batcher.take(event("a.jpg"), "http").result(10).photos == 1
    assert notes.keys == ["a.jpg"]


def test_a_bug_holds_no_message_for_ever(notes: Notes, marks: RedisMarks, monkeypatch: pytest.MonkeyPatch) -> None:
    """What breaks after submitting, too, is told to the source, which gives the message back."""

    def breaks(events: object) -> None:
        raise ZeroDivisionError("a bug")

    with an_intake(notes, marks) as batcher:
        monkeypatch.setattr(marks, "remember", breaks)
        with pytest.raises(NotSubmitted):
            batcher.take(event("a.jpg"), "http").result(5)


def test_a_photo_that_was_not_there_may_come_again(notes: Notes, marks: RedisMarks) -> None:
    """A store that shows an object late, or an event before it: the next one counts."""
    notes.gone = {"a.jpg"}
    with an_intake(notes, marks) as batcher:
        taken = batcher.take(event("a.jpg"), "http").result(10)
        assert (taken.photos, taken.results) == (0, {("uploads", "a.jpg"): "missing"})
        notes.gone = set()
        assert batcher.take(event("a.jpg"), "http").result(10).photos == 1
    assert notes.keys == ["a.jpg"]


def test_a_message_of_two_groups_is_done_when_both_are(notes: Notes) -> None:
    """One that fails is enough to keep the whole message."""

    def one_route_fails(route: Route, photos: Sequence[str], *, tenant: str) -> frozenset[str]:
        if route.source.endswith("teamA"):
            raise StoreUnavailable("that bucket is down")
        return notes(route, photos, tenant=tenant)

    with an_intake(notes) as batcher:
        batcher._submit = one_route_fails
        future = batcher.take(event("a.jpg", "teamA/b.jpg"), "http")
        with pytest.raises(StoreUnavailable, match="that bucket"):
            future.result(10)
    assert notes.keys == ["a.jpg"]


def test_a_large_message_is_done_when_its_last_photo_is() -> None:
    """Its first groups are submitted before its last ones are full: that is not the whole message."""
    places = [{"bucket": {"name": "uploads"}, "object": {"key": f"{number}.jpg"}} for number in range(1000)]
    body = json.dumps({"Records": [{"eventName": "ObjectCreated:Put", "s3": place} for place in places]})
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that threads meet in the midst of a message
    try:
        for _ in range(5):
            notes = Notes()
            with an_intake(notes, photos=64) as batcher:
                assert batcher.take(body, "http").result(20).photos == 1000
                assert len(notes.keys) == 1000
    finally:
        sys.setswitchinterval(before)


def test_a_photo_that_nobody_may_read_keeps_no_other(notes: Notes) -> None:
    """The batch is cut in halves until it stands alone; its message stays, and those of the others are done."""

    def one_is_forbidden(route: Route, photos: Sequence[str], *, tenant: str) -> frozenset[str]:
        if "13.jpg" in photos:
            raise Forbidden("no right to read it")
        return notes(route, photos, tenant=tenant)

    with an_intake(notes, seconds=0.3) as batcher:
        batcher._submit = one_is_forbidden
        futures = {number: batcher.take(event(f"{number}.jpg"), "http") for number in range(20)}
        failed = {number for number, future in futures.items() if future.exception(20)}
    assert failed == {13}
    assert notes.keys == sorted(f"{number}.jpg" for number in range(20) if number != 13)
    assert len(notes.batches) < 8


def test_where_all_fail_it_is_not_tried_photo_by_photo(notes: Notes) -> None:
    """A bucket that is not there: three tries, and not forty."""
    notes.failing = Forbidden("no right to read any")
    with an_intake(notes) as batcher, pytest.raises(Forbidden):
        batcher.take(event(*(f"{number}.jpg" for number in range(20))), "http").result(10)
    assert notes.tries == 3


def test_a_slow_store_does_not_hold_up_the_next_batch(notes: Notes) -> None:
    """Submissions overlap."""
    with an_intake(notes) as batcher:
        notes.open.clear()
        slow = [batcher.take(event(f"{number}.jpg"), "http") for number in range(1)]
        until(lambda: notes.tries == 1, 30, "the first is being submitted")
        second = batcher.take(event("2.jpg"), "http")
        until(lambda: notes.tries == 2, 30, "the second is, too")
        notes.open.set()
        assert [future.result(10).photos for future in (*slow, second)] == [1, 1]


def test_closing_finishes_what_is_in_hand_and_takes_nothing_more(notes: Notes) -> None:
    """What is gathered is submitted at once, without waiting for its time."""
    with an_intake(notes, seconds=60) as batcher:
        future = batcher.take(event("a.jpg"), "http")
        assert batcher.close(10)
        assert future.result(0).photos == 1
        with pytest.raises(Stopping):
            batcher.take(event("b.jpg"), "http")


def test_closing_gives_up_in_time(notes: Notes) -> None:
    """A store that hangs does not keep a listener from ending."""
    with an_intake(notes) as batcher:
        notes.open.clear()
        batcher.take(event("a.jpg"), "http")
        until(lambda: notes.tries == 1, 30, "it is being submitted")
        assert not batcher.close(0.3)


def test_without_redis_every_event_counts_as_new(notes: Notes, redis_server: RedisServer) -> None:
    """Marks are a convenience: where they cannot be asked, photos are submitted all the same, and soon."""
    client = redis_client(redis_server.url, Settings())
    with closing(client), an_intake(notes, marks_in(client, "")) as batcher:
        redis_server.kill()
        for _ in range(2):
            assert batcher.take(event("a.jpg"), "http").result(20).photos == 1
    redis_server.start()
