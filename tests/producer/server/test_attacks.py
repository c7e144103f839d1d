"""The server under attack: by pages in a browser, by strangers, by one tenant on another."""

from __future__ import annotations

import json
import socket
import time
from urllib.parse import quote, urlsplit

import pytest

from producer.server import connection
from producer.server.problems import MOST_TOLD
from tests.producer.server.platform import Api, Platform
from tests.producer.server.test_pages import Browser
from tests.waiting import until

ALL = ["read", "submit", "operate"]


def submit(api: Api, place: Platform, photos: list[str], **more: object) -> str:
    body = {"source": place.source, "destination": place.destination, "recipe": "light", "photos": photos, **more}
    answer = api("POST", "/v1/batches", body)
    assert answer.status == 202, answer.data
    return str(answer.json["batch"])


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "rebound.example"}, 421),
        ({"Host": "127.0.0.1.rebound.example"}, 421),
        ({"Host": ""}, 421),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:1"}, 403),
        ({"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"}, 403),
        ({"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "cors"}, 403),
        ({"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}, 200),
        ({"Sec_Fetch_Site": "same-origin", "Sec_Fetch_Mode": "cors"}, 200),
    ],
)
def test_a_page_elsewhere_reaches_no_server_without_tokens(
    place: Platform, headers: dict[str, str], status: int
) -> None:
    """Neither under a name that was bound to this machine, nor from another origin, nor as a picture of a page."""
    with place.server() as (api, _):
        assert api("GET", "/v1/batches", **headers).status == status
        if status != 200:
            asked = {"destination": place.destination, "keys": ["a.jpg"]}
            assert api("DELETE", "/v1/photos", asked, **headers).status == status


def test_a_connection_on_which_no_head_comes_is_closed(place: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that sends nothing, one that sends a byte now and then, and one that does so after a first request."""
    monkeypatch.setattr(connection, "HEAD_S", 1.0)
    whole = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with place.server() as (api, _):
        address = (urlsplit(api.url).hostname, urlsplit(api.url).port)
        for first in (b"", b"GET /healthz HTTP/1.1\r\nX-", whole):
            with socket.create_connection(address, timeout=30) as client:
                started = time.monotonic()
                client.sendall(first)
                if first == whole:
                    assert b"200" in client.recv(4096)
                client.settimeout(0.2)
                while time.monotonic() - started < 30:
                    try:
                        if first:
                            client.sendall(b"G")
                        if client.recv(4096) == b"":
                            break
                    except TimeoutError:
                        continue
                    except OSError:
                        break
                assert 0.8 < time.monotonic() - started < 20, first


def test_a_request_that_takes_longer_than_its_head_may_is_answered(
    place: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline is of the head alone: a body that comes slowly has its own."""
    monkeypatch.setattr(connection, "HEAD_S", 0.5)
    with (
        place.server() as (api, _),
        socket.create_connection((urlsplit(api.url).hostname, urlsplit(api.url).port), timeout=30) as client,
    ):
        client.sendall(b"POST /v1/estimate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n\r\n{")
        time.sleep(1.2)
        client.sendall(b"}")
        assert b" 422 " in client.recv(4096)


def test_a_strangers_body_is_not_waited_for(place: Platform) -> None:
    """Without a token that counts the answer comes a moment after the head, whatever it says of a body."""
    place.token("ops", scopes=ALL)
    with place.server() as (api, _):
        address = (urlsplit(api.url).hostname, urlsplit(api.url).port)
        for token in ("", "Authorization: Bearer apf_wrong\r\n"):
            for path in ("/v1/batches", "/v1/protect", "/v1/none"):
                with socket.create_connection(address, timeout=30) as client:
                    head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{token}Content-Length: 1000000\r\n\r\n"
                    client.sendall(head.encode())
                    answer = client.recv(4096)
                    assert b" 401 " in answer and b"www-authenticate: bearer" in answer.lower()


def test_a_stranger_who_sends_much_hears_the_answer(place: Platform) -> None:
    """A body that is on its way is read away: no connection is broken off in the middle of it."""
    place.token("ops", scopes=ALL)
    with place.server() as (api, _):
        for _ in range(20):
            answer = api("DELETE", "/v1/photos", b"x" * 3_000_000, Content_Type="application/json")
            assert answer.status == 401 and "send a token" in answer.json["detail"]


@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"photos":' + b"9" * 10_000 + b"}", b"\xff\xfe", b"{", b""])
def test_a_hostile_body_is_told_what_is_wrong(place: Platform, body: bytes) -> None:
    """Deep, huge and broken JSON is the sender's error, in a short answer."""
    with place.server() as (api, _):
        answer = api("POST", "/v1/batches", body, Content_Type="application/json")
        assert answer.status in (400, 422) and len(answer.data) < 10_000, answer.data[:300]


def test_a_body_of_many_wrong_fields_is_answered_shortly(place: Platform) -> None:
    """The answer names the first ones, and does not grow with the body."""
    with place.server() as (api, _):
        fields = {f"{number}" * 200: number for number in range(2000)}
        answer = api("POST", "/v1/batches", fields)
        assert answer.status == 422 and len(answer.data) < 10_000
        assert answer.json["detail"].count("Extra inputs") <= MOST_TOLD


def test_the_servers_own_places_are_no_photos(place: Platform) -> None:
    """Photos that others have sent to be protected lie in the scratch place: it is no source, nor a destination, of
    anybody's; neither is the place of the ledgers.
    """
    ledgers = str(place.world.settings.ledger_root)
    settings = place.world.settings
    place.world.settings = settings.model_copy(update={"allowed_urls": f"{settings.allowed_urls} {ledgers}"})
    inside = place.scratch / "in"
    with place.server() as (api, _):
        good = {"source": place.source, "destination": place.destination}
        for own in (place.scratch.as_uri(), inside.as_uri(), ledgers, ledgers + "/x"):
            for field in ("source", "destination"):
                asked = {**good, field: own}
                schedule = {**asked, "name": "n", "every": "1d"}
                for path, body in (("batches", asked), ("estimate", asked), ("schedules", schedule)):
                    answer = api("POST", f"/v1/{path}", body)
                    assert answer.status == 403 and "server's own" in answer.json["detail"], (path, own, answer.data)
            for path in ("photos?key=a.jpg&", "audit?"):
                assert api("GET", f"/v1/{path}destination={own}").status == 403
            assert api("DELETE", "/v1/photos", {"destination": own, "keys": ["a.jpg"]}).status == 403


def test_a_tenants_page_shows_no_picture_of_another(working: Platform) -> None:
    """Into a destination that two share: of a batch of one's own, another's photo is not there."""
    ann, bob = (working.token(name, scopes=ALL, tenants=[name]) for name in ("ann", "bob"))
    mine, his = sorted(key for key in working.world.photos if working.world.photos[key].startswith(b"face"))[:2]
    with working.server() as (api, _):
        anns, bobs = api.with_token(ann), api.with_token(bob)
        batch = submit(anns, working, [mine])
        anns.ended(batch)
        bobs.ended(submit(bobs, working, [his]))
        page = Browser(api, ann)
        assert page.get(f"/batches/{batch}/picture?key={quote(mine)}").status == 200
        assert page.get(f"/batches/{batch}/picture?key={quote(his)}").status == 404


def test_a_tenant_sees_no_machines_names(working: Platform) -> None:
    """The page of workers tells a tenant how many listen; only a token of all tenants sees which."""
    ann, ops = working.token("ann", scopes=ALL, tenants=["ann"]), working.token("ops", scopes=ALL)
    name = socket.gethostname()
    with working.server() as (api, _):
        operator = Browser(api, ops)
        until(lambda: name in operator.get("/workers").data.decode(), 60, "the page names the worker", every_s=0.2)
        page = Browser(api, ann).get("/workers").data.decode()
        assert "Workers that listen" in page and name not in page


def test_a_torn_record_tells_a_tenant_nothing(place: Platform) -> None:
    """Whose it is cannot be read: only a token of all tenants hears of it."""
    ann, ops = place.token("ann", scopes=ALL, tenants=["ann"]), place.token("ops", scopes=ALL)
    with place.server() as (api, _):
        batch = submit(api.with_token(ops), place, sorted(place.world.photos)[:1], tenant="bob")
        ledger = place.world.ledger
        ledger.store.put(ledger.key(batch, "batch.json"), b"{torn")
        time.sleep(0.5)
        assert api.with_token(ann)("GET", f"/v1/batches/{batch}").status == 404
        assert api.with_token(ops)("GET", f"/v1/batches/{batch}").status == 409


def test_a_stream_ends_with_its_token(place: Platform) -> None:
    """A token that is taken back hears nothing more, also where it had asked before."""
    token = place.token("ann", scopes=ALL)
    with place.server() as (api, services):
        batch = submit(api.with_token(token), place, sorted(place.world.photos)[:1])
        headers = {"Authorization": f"Bearer {token}"}
        url = f"{api.url}/v1/batches/{batch}/events"
        stream = api.pool.request("GET", url, headers=headers, preload_content=False, timeout=20)
        parts = stream.stream(16)
        assert next(parts).startswith(b"event: progress"[:16])
        services.keyring._read.by_digest.clear()
        started = time.monotonic()
        list(parts)
        assert time.monotonic() - started < 10


def test_no_log_line_holds_a_token_or_a_key(place: Platform, caplog: pytest.LogCaptureFixture) -> None:
    """Neither of a request that is done nor of one that is refused, by whatever way the token came."""
    caplog.set_level("DEBUG")
    token = place.token("ops", scopes=ALL)
    with place.server() as (api, _):
        one = api.with_token(token)
        one("GET", f"/v1/photos?destination={place.destination}&key=secret-anna.jpg")
        one("DELETE", "/v1/photos", {"destination": place.destination, "keys": ["secret-anna.jpg"]})
        api.with_token(token + "x")("GET", f"/v1/batches?token={token}")
        Browser(api, token).get(f"/batches/x?key={token}")
    ours = [line.getMessage() for line in caplog.records if line.name.startswith(("producer", "workers", "uvicorn"))]
    assert ours and not any(token in line or "secret-anna" in line for line in ours), json.dumps(ours)[:2000]


@pytest.mark.parametrize(
    ("method", "path", "megabytes", "scopes", "status"),
    [
        ("POST", "/v1/protect", 26, ["submit"], 413),
        ("POST", "/v1/batches", 9, ["submit"], 413),
        ("POST", "/v1/protect", 20, ["read"], 403),
        ("POST", "/v1/protect?recipe=none", 20, ["submit"], 422),
        ("POST", "/v1/none", 7, ["submit"], 404),
        ("PUT", "/v1/protect", 20, ["submit"], 405),
    ],
)
def test_whoever_sends_a_large_body_hears_why_it_is_refused(
    place: Platform, method: str, path: str, megabytes: int, scopes: list[str], status: int
) -> None:
    """An answer before the body is read reaches a client that sends first and listens then."""
    token = place.token("ann", scopes=scopes)
    with place.server() as (api, _):
        for _ in range(3):
            answer = api.with_token(token)(method, path, b"x" * megabytes * 2**20)
            assert answer.status == status and answer.json["detail"], answer.data[:300]


def test_a_client_that_asks_first_sends_no_body_that_is_refused(place: Platform) -> None:
    """Expect: 100-continue, as curl sends it, gets the answer and no leave to send."""
    token = place.token("ann", scopes=["read"])
    with place.server() as (api, _):
        address = (urlsplit(api.url).hostname, urlsplit(api.url).port)
        with socket.create_connection(address, timeout=5) as client:
            head = f"POST /v1/protect HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
            client.sendall(f"{head}Content-Length: 1000000\r\nExpect: 100-continue\r\n\r\n".encode())
            answer = client.recv(4096)
            assert answer.startswith(b"HTTP/1.1 403 ") and b" 100 " not in answer


@pytest.mark.parametrize(
    ("body", "kind", "told"),
    [
        (b'{"source": s3}', "application/json", "the body is no JSON: Expecting value at character 11"),
        (b"source=s3://a", "application/x-www-form-urlencoded", "send Content-Type: application/json"),
        (b"[]", "application/json", "should be a valid dictionary"),
    ],
)
def test_a_body_that_is_no_json_is_told_where_or_how_to_send_it(
    place: Platform, body: bytes, kind: str, told: str
) -> None:
    """Newcomers forget a quote, or the header that curl -d needs."""
    with place.server() as (api, _):
        answer = api("POST", "/v1/batches", body, Content_Type=kind)
        assert answer.status == 422 and told in answer.json["detail"], answer.data
