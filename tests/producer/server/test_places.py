"""Of what lasts no tenant takes all: streams of events, photos that are waited for, estimates and erasures."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import urllib3

from producer.server.places import Places, protect_places, stream_places
from producer.server.problems import Problem
from producer.server.settings import ServeSettings
from tests.producer.server.platform import Answer, Api, Platform
from tests.waiting import until

ALL = ["read", "submit", "operate"]
KEPT: list[Iterator[bytes]] = []


def submit(api: Api, place: Platform, tenant: str) -> str:
    asked = {"source": place.source, "destination": place.destination, "recipe": "light", "tenant": tenant}
    answer = api("POST", "/v1/batches", {**asked, "photos": sorted(place.world.photos)[:1]})
    assert answer.status == 202, answer.data
    return str(answer.json["batch"])


def stream(api: Api, batch: str) -> urllib3.BaseHTTPResponse:
    found = api.pool.request(
        "GET", f"{api.url}/v1/batches/{batch}/events", preload_content=False, timeout=60,
        headers={"Authorization": f"Bearer {api.token}"},
    )  # fmt: skip
    if found.status == 200:
        chunks = found.stream(16)
        assert next(chunks)
        KEPT.append(chunks)  # one that is dropped closes the connection
    return found


def test_a_tenant_takes_not_all_streams(place: Platform) -> None:
    """Ann's third stream is refused by the name of the limit, through whatever token of hers; bob and the operator
    have theirs, and a stream that ends makes room.
    """
    place.serve |= {"streams": 4, "streams_per_tenant": 2}
    tokens = {who: place.token(who, scopes=ALL, tenants=[who]) for who in ("ann", "bob")}
    phone, ops = place.token("ann-phone", scopes=ALL, tenants=["ann", "zoe"]), place.token("ops", scopes=ALL)
    with place.server() as (api, _):
        ann, bob = (api.with_token(tokens[who]) for who in ("ann", "bob"))
        anns, bobs = submit(ann, place, "ann"), submit(bob, place, "bob")
        first, second = stream(ann, anns), stream(api.with_token(phone), anns)
        assert (first.status, second.status) == (200, 200)
        refused = ann("GET", f"/v1/batches/{anns}/events")
        assert refused.status == 429 and refused.headers["Retry-After"] == "30"
        assert refused.headers["Content-Type"] == "application/problem+json"
        assert "2 streams are open for 'ann'" in refused.json["detail"]
        theirs = [stream(bob, bobs), stream(api.with_token(ops), anns)]
        assert [one.status for one in theirs] == [200, 200]
        full = bob("GET", f"/v1/batches/{bobs}/events")
        assert full.status == 429 and "4 streams are open, which" in full.json["detail"]
        for one in (first, second, *theirs):
            one.close()
        until(lambda: stream(ann, anns).status == 200, 20, "the places are free again")


def protecting(api: Api, tenant: str, count: int, answers: dict[int, Answer]) -> list[threading.Thread]:
    """So many photos at once, which wait as there is no worker."""

    def ask(number: int) -> None:
        answers[number] = api("POST", f"/v1/protect?recipe=light&tenant={tenant}", b"face %d " % number * 1000)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads


@pytest.mark.parametrize("bound", [True, False])
def test_a_tenant_takes_not_all_places_of_protect(place: Platform, bound: bool) -> None:
    """Ann sends six photos at once and two are taken in, be it by a token of hers or by the backend's that names her;
    bob's two wait beside them, and the others are told when to come again.
    """
    place.serve |= {"protect_at_once": 4, "protect_timeout_s": 6}
    backend = place.token("backend", scopes=ALL)
    tokens = {who: place.token(who, scopes=ALL, tenants=[who]) if bound else backend for who in ("ann", "bob")}
    with place.server() as (api, services):
        anns: dict[int, Answer] = {}
        bobs: dict[int, Answer] = {}
        threads = protecting(api.with_token(tokens["ann"]), "ann", 6, anns)
        until(lambda: len(anns) == 4, 20, "four of ann's are refused")
        threads += protecting(api.with_token(tokens["bob"]), "bob", 2, bobs)
        for thread in threads:
            thread.join()
        assert sorted(one.status for one in anns.values()) == [429] * 4 + [504] * 2
        assert [one.status for one in bobs.values()] == [504] * 2, "they had places"
        for one in anns.values():
            if one.status == 429:
                assert "2 photos are in hand for 'ann'" in one.json["detail"] and one.headers["Retry-After"] == "2"
        assert not services.protecting._taken


def test_a_tenant_takes_not_all_long_acts(place: Platform) -> None:
    """While two of ann's estimates are in hand a third and an erasure are refused, and bob's are done."""
    tokens = {who: place.token(who, scopes=ALL, tenants=[who]) for who in ("ann", "bob")}
    asked = {"source": place.source, "destination": place.destination}
    erased = {"destination": place.destination, "keys": ["a.jpg"]}
    with place.server() as (api, services), ExitStack() as held:
        for _ in range(2):
            held.enter_context(services.long_acts.one("ann"))
        ann, bob = (api.with_token(tokens[who]) for who in ("ann", "bob"))
        for method, path, body in (("POST", "/v1/estimate", asked), ("DELETE", "/v1/photos", erased)):
            refused = ann(method, path, body)
            assert refused.status == 429 and "for 'ann'" in refused.json["detail"] and refused.headers["Retry-After"]
            assert bob(method, path, body).status == 200


@pytest.mark.parametrize(
    ("asked", "shares"),
    [({}, (50, 4)), ({"streams": 1, "protect_at_once": 3}, (1, 2)),
     ({"streams_per_tenant": 7, "protect_per_tenant": 9}, (7, 9))],
)  # fmt: skip
def test_half_of_all_is_one_tenants_where_nothing_else_is_said(asked: dict[str, int], shares: tuple[int, int]) -> None:
    """Rounded up: a tenant has one place at least."""
    serve = ServeSettings.model_validate(asked)
    assert (stream_places(serve).per_tenant, protect_places(serve).per_tenant) == shares


def test_places_are_given_back_whatever_happens() -> None:
    """A thousand blocks in many threads, half of which fail: no place is held, and never more than there are."""
    places, seen, refused = Places("are held", "wait", 5, 3, 1), [0], [0]

    def hold(number: int) -> None:
        for _ in range(25):
            try:
                with places.one(f"t{number % 2}"):
                    seen[0] = max(seen[0], places._taken.total())
                    time.sleep(0.0005)
                    if number % 4 == 0:
                        raise ValueError
            except ValueError:
                pass
            except Problem:
                refused[0] += 1

    threads = [threading.Thread(target=hold, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not places._taken and 0 < seen[0] <= 5 and refused[0]
