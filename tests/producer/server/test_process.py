"""`apf serve` as a process: killed, stopped, and behind a proxy."""

from __future__ import annotations

import socket
import threading
import time

import pytest
import redis

from tests.faults.world import expected
from tests.producer.server.platform import Answer, Platform, end


def test_an_accepted_submission_survives_the_servers_death(place: Platform) -> None:
    """Killed right after its 202, the server has lost nothing: a worker that starts later does every photo."""
    process, api = place.process()
    names = sorted(place.world.photos)
    answer = api("POST", "/v1/batches", {
        "source": place.source, "destination": place.destination, "recipe": "light", "photos": names,
    })  # fmt: skip
    process.kill()
    process.wait()
    assert answer.status == 202
    place.world.batch_id = answer.json["batch"]
    place.world.start_worker()
    place.world.wait()
    place.world.check_outputs(expected(place.world.photos))


def test_an_accepted_submission_survives_a_flushed_queue(place: Platform) -> None:
    """Redis loses all it had after the 202: the ledger has the batch, and reconciling sends it again."""
    with place.server() as (api, _):
        asked = {"source": place.source, "destination": place.destination, "recipe": "light"}
        place.world.batch_id = api("POST", "/v1/batches", {**asked, "photos": sorted(place.world.photos)}).json["batch"]
    with redis.Redis(port=place.world.redis.port) as client:
        client.flushall()
    place.world.start_worker()
    place.world.wait()
    place.world.check_outputs(expected(place.world.photos))


def test_a_server_that_stops_answers_what_it_has_in_hand(place: Platform) -> None:
    """SIGTERM in the middle of a request: it is answered, streams end, and the process ends with 0."""
    process, api = place.process(APF_SHUTDOWN_GRACE_S="30")
    place.world.start_worker()
    batch = api("POST", "/v1/batches", {
        "source": place.source, "destination": place.destination, "recipe": "light",
        "photos": sorted(place.world.photos)[:1],
    }).json["batch"]  # fmt: skip
    api.ended(batch)
    answers: list[Answer] = []
    photo = threading.Thread(target=lambda: answers.append(api("POST", "/v1/protect?recipe=light", b"face " * 1000)))
    photo.start()
    time.sleep(0.2)
    assert end(process) == 0
    photo.join()
    assert answers[0].status == 200


@pytest.mark.parametrize("trusted", [True, False])
def test_a_proxys_word_counts_where_it_is_trusted(place: Platform, trusted: bool) -> None:
    """X-Forwarded-Proto of a proxy that is named turns HSTS on; anybody else's is nothing."""
    place.serve["proxies"] = "127.0.0.1/32" if trusted else "10.0.0.0/8"
    with place.server() as (api, _):
        answer = api("GET", "/healthz", X_Forwarded_Proto="https", X_Forwarded_For="203.0.113.9")
        assert ("Strict-Transport-Security" in answer.headers) == trusted


def test_a_body_that_does_not_come_is_not_waited_for(place: Platform) -> None:
    """Half a request holds no place for ever."""
    place.serve["body_timeout_s"] = 0.5
    with place.server() as (api, _):
        host, _, port = api.url.partition("://")[2].partition(":")
        with socket.create_connection((host, int(port)), timeout=20) as half:
            half.sendall(b"POST /v1/batches HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                         b"Content-Length: 100\r\n\r\n{")  # fmt: skip
            assert b" 408 " in half.recv(200)


def test_answers_on_a_kept_connection_are_not_held_back(place: Platform) -> None:
    """By Nagle's algorithm, which without its being turned off adds 40 ms to every one."""
    process, api = place.process()
    try:
        api("GET", "/healthz")
        seconds = []
        for _ in range(10):
            started = time.monotonic()
            assert api("GET", "/healthz").status == 200
            seconds.append(time.monotonic() - started)
        assert min(seconds) < 0.03
    finally:
        end(process)
