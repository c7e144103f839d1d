"""The same request under the same key is done once, by whichever server, and whatever dies in between."""

from __future__ import annotations

import threading
from typing import Any

import redis

from producer.server.idempotency import FOLDER
from tests.producer.server.platform import Platform


def body(place: Platform, **more: object) -> dict[str, object]:
    photos = sorted(place.world.photos)[:2]
    return {"source": place.source, "destination": place.destination, "recipe": "light", "photos": photos, **more}


def test_the_same_key_makes_one_batch_on_two_servers(place: Platform) -> None:
    """Asked again, of another server, after Redis was flushed: the same answer, and one batch."""
    with place.server() as (one, _), place.server() as (other, _):
        first = one("POST", "/v1/batches", body(place), Idempotency_Key="upload-1")
        assert first.status == 202 and "Idempotency-Replayed" not in first.headers
        with redis.Redis(port=place.world.redis.port) as client:
            client.flushall()
        again = other("POST", "/v1/batches", body(place), Idempotency_Key="upload-1")
        assert again.json == first.json and again.headers["Idempotency-Replayed"] == "true"
        assert len(place.world.ledger.batches()) == 1
        assert other("POST", "/v1/batches", body(place), Idempotency_Key="upload-2").json != first.json


def test_a_key_of_another_request_is_refused(place: Platform) -> None:
    """Another body, and another act, under a key that was given: nothing is done, and the cure is told."""
    with place.server() as (api, _):
        first = api("POST", "/v1/batches", body(place), Idempotency_Key="k-1").json
        for path, asked in (("/v1/batches", body(place, tenant="bob")), (f"/v1/batches/{first['batch']}/cancel", None)):
            answer = api("POST", path, asked, Idempotency_Key="k-1")
            assert answer.status == 422 and "new key" in answer.json["detail"]
        assert place.world.ledger.batches() == [first["batch"]]
        assert api("GET", f"/v1/batches/{first['batch']}").json["state"] == "running"


def test_keys_of_two_tokens_are_two(place: Platform) -> None:
    """No tenant can learn from a key what another has submitted."""
    tokens = [place.token(name, scopes=["submit"], tenants=[name]) for name in ("ann", "bob")]
    with place.server() as (api, _):
        answers = [api.with_token(one)("POST", "/v1/batches", body(place), Idempotency_Key="k").json for one in tokens]
        assert answers[0]["batch"] != answers[1]["batch"]


def test_ten_at_once_make_one_batch(place: Platform) -> None:
    """Of ten requests under one key at the same time one is done; the others are told so, or to wait."""
    answers: list[Any] = []
    with place.server() as (one, _), place.server() as (other, _):

        def ask(number: int) -> None:
            server = (one, other)[number % 2]
            answers.append(server("POST", "/v1/batches", body(place), Idempotency_Key="k"))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {one.status for one in answers} <= {202, 409}
    batches = {one.json["batch"] for one in answers if one.status == 202}
    assert len(batches) == 1 and place.world.ledger.batches() == list(batches)


def test_a_request_that_was_cut_short_goes_on_as_the_same_batch(place: Platform) -> None:
    """The server died after the batch was in the ledger, and before it could answer: asked again, it is that batch."""
    with place.server() as (api, services):
        first = api("POST", "/v1/batches", body(place), Idempotency_Key="k").json
        (info,) = services.root.list(FOLDER)
        record = services.root.get(info.key).data.replace(b'"answer":{', b'"answer":null,"x":{')
        services.root.put(info.key, record)
        again = api("POST", "/v1/batches", body(place), Idempotency_Key="k")
        assert again.json == first and "Idempotency-Replayed" not in again.headers
        assert place.world.ledger.batches() == [first["batch"]]


def test_a_key_is_free_again_where_nothing_was_submitted(place: Platform) -> None:
    """A body that is refused and mended may come under the same key."""
    with place.server() as (api, _):
        bad = api("POST", "/v1/batches", body(place, photos=["absent.jpg"]), Idempotency_Key="k")
        assert bad.status == 422
        assert api("POST", "/v1/batches", body(place), Idempotency_Key="k").status == 202
