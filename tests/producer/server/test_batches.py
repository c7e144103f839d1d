"""Batches over HTTP: submitted, followed, listed, stopped and taken up again, beside a worker whose filter is cheap."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from producer.server.problems import NoSuchBatch
from producer.server.services import make_services
from producer.server.tokens import LOCAL
from tests.conftest import RedisServer
from tests.producer.server.platform import Api, Platform, platform
from tests.waiting import until
from workers.ledger.batch_ledger import Ledger
from workers.ledger.open_batches import OPEN


def submit(api: Api, place: Platform, **more: object) -> str:
    body = {"source": place.source, "destination": place.destination, "recipe": "light", **more}
    answer = api("POST", "/v1/batches", body)
    assert answer.status == 202, answer.data
    assert api("GET", answer.headers["Location"]).json["batch"] == answer.json["batch"]
    return str(answer.json["batch"])


def test_named_photos_are_protected_and_told_of(working: Platform) -> None:
    """From the submission to each photo's outcome, reason and cure; no other photo is touched."""
    names = sorted(working.world.photos, key=lambda key: key[-7:])[:6]
    with working.server() as (api, _):
        batch = submit(api, working, photos=names, tenant="ann")
        view = api.ended(batch)
        assert (view["photos"], view["protected"], view["no_face"], view["failed"], view["pending"]) == (6, 4, 1, 1, 0)
        assert (view["lane"], view["tenant"], view["recipe"], view["state"]) == ("interactive", "ann", "light", "done")
        (failure,) = api("GET", f"/v1/batches/{batch}/failures").json["failures"]
        assert "ends too early" in failure["reason"] and failure["cure"] and failure["attempts"] == 1
        photo = api("GET", f"/v1/batches/{batch}/photo?key={failure['key'].replace(' ', '%20')}").json
        assert (photo["outcome"], photo["reason"]) == ("failed", failure["reason"])
        done = next(name for name in names if working.world.photos[name].startswith(b"face"))
        query = f"destination={working.destination}&key={done.replace(' ', '%20')}"
        assert api("GET", f"/v1/photos?{query}").json["batch"] == batch
        assert api("GET", f"/v1/photos?{query}x").status == 404
    assert len(list(working.world.destination.list())) == 5


def test_a_whole_source_is_listed_by_a_worker(working: Platform) -> None:
    with working.server() as (api, _):
        batch = submit(api, working)
        view = api.ended(batch)
        assert (view["photos"], view["failed"], view["lane"], view["planned"]) == (8, 1, "bulk", True)


def test_failed_photos_are_retried(working: Platform) -> None:
    """Mended and retried, the photo is protected; a retry that has nothing to do sends nothing."""
    with working.server() as (api, _):
        batch = submit(api, working)
        assert api.ended(batch)["failed"] == 1
        (failure,) = api("GET", f"/v1/batches/{batch}/failures").json["failures"]
        working.world.source.put(failure["key"], b"face mended")
        assert api("POST", f"/v1/batches/{batch}/retry").json == {"batch": batch, "sent": 1}
        until(lambda: not api.ended(batch)["failed"], 60, "the photo is retried", every_s=0.2)
        assert api("GET", f"/v1/batches/{batch}").json["protected"] == 7
        assert api("POST", f"/v1/batches/{batch}/retry").json["sent"] == 0
        key = failure["key"].replace(" ", "%20")
        assert api("GET", f"/v1/batches/{batch}/photo?key={key}").json["outcome"] == "protected"


def test_a_batch_is_held_stopped_and_taken_up(place: Platform) -> None:
    """Pause and cancel show at once; resume sends what has no report; one that is done cannot be stopped."""
    names = sorted(place.world.photos)[:2]
    with place.server() as (api, _):
        batch = submit(api, place, photos=names)
        assert api("GET", f"/v1/batches/{batch}").json["state"] == "running"
        assert api("POST", f"/v1/batches/{batch}/pause").json["state"] == "paused"
        assert api("GET", "/v1/batches?state=paused").json["batches"][0]["batch"] == batch
        assert api("POST", f"/v1/batches/{batch}/cancel").json["state"] == "cancelled"
        assert api("POST", f"/v1/batches/{batch}/resume").json == {"batch": batch, "sent": 1}
        place.world.start_worker()
        api.ended(batch)
        answer = api("POST", f"/v1/batches/{batch}/cancel")
        assert answer.status == 409 and "done already" in answer.json["detail"]


def test_events_follow_a_batch_to_its_end(working: Platform) -> None:
    """The stream tells of the progress, ends with the batch, and says where it stands."""
    with working.server() as (api, _):
        batch = submit(api, working)
        stream = api.pool.request("GET", f"{api.url}/v1/batches/{batch}/events", preload_content=False, timeout=60)
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        text = b"".join(stream.stream()).decode()
    events = [dict(line.split(": ", 1) for line in event.splitlines()) for event in text.strip().split("\n\n")]
    assert events[-1]["event"] == "done"
    assert json.loads(events[-1]["data"])["pending"] == 0
    assert {one["event"] for one in events[:-1]} <= {"progress"}


def test_streams_are_bounded_and_end_with_the_server(place: Platform) -> None:
    """One stream too many is told when to come again; a server that stops ends them, and the client opens another."""
    place.serve["streams"] = 1
    names = sorted(place.world.photos)[:1]
    with place.server() as (api, services):
        batch = submit(api, place, photos=names)
        stream = api.pool.request("GET", f"{api.url}/v1/batches/{batch}/events", preload_content=False, timeout=60)
        first = stream.stream(64)
        assert next(first).startswith(b"event: progress")
        refused = api("GET", f"/v1/batches/{batch}/events")
        assert refused.status == 429 and refused.headers["Retry-After"]
        services.stopping.set()
        assert b"".join(first)


def test_batches_are_listed_by_what_is_asked(place: Platform, tmp_path: Path) -> None:
    """By tenant, destination and time, page by page, newest first; those of commands are among them."""
    names = sorted(place.world.photos)
    elsewhere = place.destination + "/more"
    with place.server() as (api, services):
        batches = [
            submit(api, place, photos=[name], tenant=tenant) for name, tenant in zip(names[:5], "aabba", strict=True)
        ]
        other = submit(api, place, photos=[names[0]], destination=elsewhere)
        place.world.submit()
        by_command = place.world.batch_id

        def listed(query: str = "") -> list[str]:
            page = api("GET", f"/v1/batches?{query}").json
            return [one["batch"] for one in page["batches"]]

        until(lambda: len(listed()) == 7, 60, "the index has all")
        everything = listed()
        assert everything == sorted([*batches, other, by_command], reverse=True)
        assert listed("tenant=b") == [batches[3], batches[2]]
        assert listed(f"destination={elsewhere}") == [other]
        assert listed("since=2999-01-01T00:00:00Z") == [] and len(listed("until=2999-01-01T00:00:00Z")) == 7
        pages, cursor = [], ""
        while cursor is not None:
            page = api("GET", f"/v1/batches?limit=3&cursor={cursor}" if cursor else "/v1/batches?limit=3").json
            pages.append([one["batch"] for one in page["batches"]])
            cursor = page["next"]
        assert [len(page) for page in pages] == [3, 3, 1] and [one for page in pages for one in page] == everything
        assert api("GET", "/v1/batches?cursor=nonsense").status == 422
        assert services.index.is_complete


@pytest.mark.parametrize(
    ("change", "status", "told"),
    [
        ({"photos": ["absent.jpg"]}, 422, "absent.jpg"),
        ({"photos": []}, 422, "photos"),
        ({"source": "photos"}, 422, "s3://bucket/prefix"),
        ({"source": "file:///etc"}, 403, "APF_ALLOWED_URLS"),
        ({"destination": "s3://elsewhere"}, 403, "APF_ALLOWED_URLS"),
        ({"recipe": "/etc/passwd"}, 422, "standard"),
        ({"lane": "fast"}, 422, "interactive"),
        ({"unknown": 1}, 422, "unknown"),
        ({"callback": "nowhere"}, 422, "https://host/path"),
        ({"exclude": ["a"], "photos": ["b.jpg"]}, 422, "exclude"),
    ],
)
def test_what_makes_no_sense_is_a_problem(place: Platform, change: dict[str, object], status: int, told: str) -> None:
    """The problem names the value and its cure, and nothing is submitted."""
    with place.server() as (api, _):
        body = {"source": place.source, "destination": place.destination, "recipe": "light", **change}
        answer = api("POST", "/v1/batches", body)
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json["status"] == answer.status == status
        assert told in answer.json["detail"] and answer.json["request_id"] == answer.headers["X-Request-Id"]
        assert api("GET", "/v1/batches").json["batches"] == []


def test_a_queue_that_is_down_is_told_and_nothing_is_submitted(tmp_path: Path, redis_server: RedisServer) -> None:
    """503 with Retry-After: the client comes again, and no half of a batch is left. Where the queue is, is not told."""
    with platform(tmp_path, redis_server) as place, place.server() as (api, _):
        redis_server.kill()
        body = {"source": place.source, "destination": place.destination, "photos": sorted(place.world.photos)[:1]}
        answer = api("POST", "/v1/batches", body)
        assert answer.status == 503 and answer.headers["Retry-After"]
        assert "the queue cannot be used now" in answer.json["detail"] and "127.0.0.1" not in str(answer.json)
        assert api("GET", "/readyz").status == 503 and api("GET", "/healthz").status == 200
        assert place.world.ledger.batches() == []


def test_another_servers_batch_is_found_at_once(place: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is in the index: as an open one, by asking each ledger, and by its destination in any case."""
    with place.server() as (api, _):
        batch = submit(api, place, photos=sorted(place.world.photos)[:1])
    fresh = make_services(place.world.settings, place.settings())
    asked: list[str] = []
    has_batch = Ledger.has_batch
    monkeypatch.setattr(Ledger, "has_batch", lambda self, one: (asked.append(one), has_batch(self, one))[1])
    assert fresh.find(LOCAL, batch)[1].id == batch and asked == []
    fresh.root.delete(OPEN + batch)
    assert fresh.find(LOCAL, batch)[1].id == batch and asked == [batch]
    monkeypatch.setattr("producer.server.services.ASKED_ONE_BY_ONE", 0)
    with pytest.raises(NoSuchBatch, match="destination="):
        fresh.find(LOCAL, batch)
    assert fresh.find(LOCAL, batch, place.destination)[1].id == batch
