"""`POST /v1/protect`: a photo in, the protected photo back, and never another."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest

from producer.server.routes.protect import jury_of, media_type
from tests.faults import cheap_output
from tests.producer.server.platform import Answer, Platform
from tests.waiting import until
from workers.core.records import Outcome, PhotoReport, Word
from workers.store import open_store


def left(place: Platform) -> list[str]:
    """All objects of the scratch place and its ledger."""
    found = [info.key for info in open_store(place.scratch).list()]
    root = open_store(str(place.world.settings.ledger_root))
    ledgers = [name for name in root.folders("") if "scratch" in name]
    found += [info.key for name in ledgers for info in root.list(f"{name}/")]
    return found + [info.key for info in root.list(".apf/open/")]


def test_a_photo_comes_back_protected_and_nothing_is_kept(working: Platform) -> None:
    """The answer is the worker's output, with what is known of it; neither photo nor batch is left anywhere."""
    data = b"face of a person " * 1000
    with working.server() as (api, _):
        answer = api("POST", "/v1/protect?recipe=light", data)
        assert answer.status == 200, answer.data
        assert answer.data == cheap_output(data)
        assert (answer.headers["Apf-Outcome"], answer.headers["Apf-Faces"]) == ("protected", "1")
        assert (answer.headers["Apf-Jury"], answer.headers["Apf-Weak-Faces"]) == ("none", "0")
        assert answer.headers["Cache-Control"] == "no-store" and answer.headers["Apf-Recipe"]
        assert api("GET", "/v1/batches").json["batches"] == []
    assert left(working) == []


def test_what_cannot_be_protected_is_a_problem_and_no_photo(working: Platform) -> None:
    """A damaged photo, one without a face where that is refused, an empty body: told why, nothing kept."""
    with working.server() as (api, _):
        damaged = api("POST", "/v1/protect?recipe=light", b"corrupt " * 100)
        assert damaged.status == 422 and "ends too early" in damaged.json["detail"]
        assert api("POST", "/v1/protect?recipe=light", b"empty " * 100).headers["Apf-Outcome"] == "no_face"
        refused = api("POST", "/v1/protect?recipe=light&no_face=refuse", b"empty " * 100)
        assert refused.status == 422 and "no face" in refused.json["detail"]
        assert api("POST", "/v1/protect", b"").status == 422
        assert api("POST", "/v1/protect?recipe=/etc/passwd", b"face").status == 422
    assert left(working) == []


def test_without_a_worker_one_waits_no_longer_than_is_set(place: Platform) -> None:
    """The photo is taken back, and a worker that comes later publishes nothing."""
    place.serve["protect_timeout_s"] = 1
    with place.server() as (api, _):
        answer = api("POST", "/v1/protect?recipe=light", b"face " * 100)
        assert answer.status == 504 and answer.headers["Retry-After"]
        assert left(place) == []
        place.world.start_worker()
        time.sleep(2)
    assert [key for key in left(place) if key.startswith("out/")] == []


def test_fifty_at_once_are_served_or_told_to_come_again(working: Platform) -> None:
    """Each answer is the photo's own or 429 with Retry-After; no more bodies are held than may be in hand."""
    working.serve["protect_at_once"] = 4
    answers: dict[int, Answer] = {}
    with working.server() as (api, _):

        def ask(number: int) -> None:
            answers[number] = api("POST", "/v1/protect?recipe=light", b"face %d " % number * 20_000)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    statuses = [one.status for one in answers.values()]
    assert set(statuses) <= {200, 429} and statuses.count(200) >= 4 and len(statuses) == 50
    for number, answer in answers.items():
        if answer.status == 200:
            assert answer.data == cheap_output(b"face %d " % number * 20_000)
        else:
            assert answer.headers["Retry-After"]
    assert left(working) == []


def test_a_photo_over_the_limit_is_refused_before_it_is_here(place: Platform) -> None:
    """By its Content-Length, or once too much has come where it says none."""
    place.serve["protect_max_bytes"] = 1000
    with place.server() as (api, _):
        assert api("POST", "/v1/protect", b"x" * 1001).status == 413
        chunks = (b"x" * 600 for _ in range(3))
        got = api.pool.request("POST", f"{api.url}/v1/protect", body=chunks, chunked=True, timeout=20)
        assert got.status == 413 and b"1000 bytes" in got.data


def test_what_a_dead_server_left_is_swept_away(place: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an hour neither the photo nor its batch is there, whatever state they were left in."""
    with place.server() as (_, services):
        scratch = services.scratch
        assert scratch
        monkeypatch.setattr(scratch, "_clear", lambda *_: None)
        threading.Thread(target=lambda: _protect(scratch), daemon=True).start()
        until(lambda: len(left(place)) >= 3, 60, "the photo and its batch are there")
        time.sleep(1.5)
        scratch.sweep()
        assert len(left(place)) >= 3, "it is not old"
        monkeypatch.setattr("producer.server.scratch.LEFT", timedelta(0))
        scratch.sweep()
        assert scratch._ledger.batch_ids() == [], "nor is its folder"
    assert left(place) == []


def _protect(scratch: object) -> None:
    try:
        scratch.protect(b"face", recipe="light", tenant="", on_weak="publish", no_face="copy", timeout_s=1)  # type: ignore[attr-defined]
    except Exception:
        return


def test_the_jurys_word_is_in_the_headers() -> None:
    """Weak where a juror knows a face, passed where all were heard on all faces, none where one was not."""

    def report(words: list[float | None], weak: int = 0) -> PhotoReport:
        found = tuple(Word(likeness=one) for one in words)
        return PhotoReport(key="a", etag="", outcome=Outcome.protected, faces=2, words=found, weak=weak)

    assert jury_of(report([0.1, 0.2])) == "passed"
    assert jury_of(report([0.1, 1.2], weak=1)) == "weak"
    assert jury_of(report([0.1, None])) == "none" == jury_of(report([]))


def test_media_types_are_those_of_the_bytes() -> None:
    assert media_type(b"\xff\xd8\xff\xe0") == "image/jpeg"
    assert media_type(b"RIFF0000WEBP") == "image/webp"
    assert media_type(b"\0\0\0\x1cftypheic") == "image/heic"
    assert media_type(b"\0\0\0\x1cftypavif") == "image/avif"
    assert media_type(b"anything") == "application/octet-stream"
