"""The HTTP endpoint, asked over loopback."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
import urllib3
from standardwebhooks.webhooks import Webhook

from producer.events.auth import authenticator_for
from producer.events.formats.s3 import MAX_BODY_BYTES
from producer.events.sources import http
from producer.events.sources.http import EventsApp, HttpSource
from tests.conftest import _free_ports
from tests.producer.events import samples
from tests.producer.events.helpers import Notes, an_intake, counted, event, running
from tests.producer.events.test_auth import SECRET, TOKEN
from tests.waiting import until
from workers.errors import SettingsError, StoreUnavailable
from workers.telemetry.redaction import install

BEARER = {"Authorization": f"Bearer {TOKEN}"}


class Site:
    """A running endpoint."""

    def __init__(self, port: int, app: EventsApp, notes: Notes, stop: threading.Event) -> None:
        self.port, self.app, self.notes, self.stop = port, app, notes, stop

    def ask(self, path: str = "/events", body: Any = None, method: str = "POST", **headers: str) -> Any:
        url = f"http://127.0.0.1:{self.port}{path}"
        return urllib3.request(method, url, body=body, headers=headers, timeout=30, retries=False)

    def post(self, body: str, headers: dict[str, str] = BEARER) -> int:
        return int(self.ask(body=body, **headers).status)


@contextmanager
def serving(notes: Notes) -> Iterator[Site]:
    stop = threading.Event()
    port = _free_ports([0])
    with an_intake(notes) as batcher:
        app = EventsApp(batcher, authenticator_for(SECRET, TOKEN), stop)
        with running(HttpSource(f"127.0.0.1:{port}", app, stop), batcher, stop):
            yield Site(port, app, notes, stop)


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Notes()) as place:
        yield place


def signed(body: str, ago_s: int = 0) -> dict[str, str]:
    at = int(datetime.now(UTC).timestamp()) - ago_s
    signature = Webhook(SECRET).sign("msg_1", datetime.fromtimestamp(at, UTC), body)
    return {"Webhook-Id": "msg_1", "Webhook-Timestamp": str(at), "Webhook-Signature": signature}


def test_signed_events_are_submitted_and_then_answered(site: Site) -> None:
    """The answer says how many photos are in a ledger now, and what became of each object."""
    body = event("a.jpg", "b.txt")
    answer = site.ask(body=body, **signed(body))
    results = [{"bucket": "uploads", "key": k, "result": r} for k, r in (("a.jpg", "submitted"), ("b.txt", "no_photo"))]
    assert (answer.status, answer.json()) == (200, {"photos": 1, "results": results, "malformed": []})
    assert site.notes.keys == ["a.jpg"]


@pytest.mark.parametrize(
    "sample", [samples.MINIO_WEBHOOK, samples.SEAWEEDFS, samples.CEPH], ids=["MinIO", "SeaweedFS", "Ceph"]
)
def test_stores_that_send_a_token_are_let_in(site: Site, sample: Any) -> None:
    """Their events as they send them."""
    assert site.post(json.dumps(sample)) == 200
    assert len(site.notes.keys) == 1


def test_strangers_are_refused_and_told_nothing(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is parsed or submitted; the log says why, and not what was sent."""
    before = counted("apf_listen_refused_total", source="http", reason="unauthorized")
    body = event("a.jpg")
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {**signed(body), "Webhook-Signature": "v1,AAAA"},
        signed("x"),
    ):
        answer = site.ask(body=body, **headers)
        assert (answer.status, answer.json()) == (401, {"error": "not authorized"})
    assert site.notes.keys == []
    assert counted("apf_listen_refused_total", source="http", reason="unauthorized") == before + 4
    assert "wrong signature" in caplog.text
    assert TOKEN not in caplog.text


def test_a_recorded_request_cannot_be_sent_again_later(site: Site) -> None:
    """Its time is signed with it."""
    body = event("a.jpg")
    assert site.post(body, signed(body, ago_s=299)) == 200
    assert site.post(body, signed(body, ago_s=302)) == 401
    assert (
        site.post(body, {**signed(body, ago_s=302), "Webhook-Timestamp": str(int(datetime.now(UTC).timestamp()))})
        == 401
    )
    assert site.notes.keys == ["a.jpg"]


@pytest.mark.parametrize("body", ["", "{", "[]]", '{"Records": [{}]}', "\x00\x01"])
def test_bad_input_is_the_senders_fault(site: Site, body: str) -> None:
    """400: coming again would not help."""
    assert site.post(body) == 400
    assert site.post(event("a.jpg")) == 200


def test_a_large_body_is_refused_unread(site: Site) -> None:
    """Also one that does not say its size, or says a wrong one."""
    assert site.post("x" * (MAX_BODY_BYTES + 1)) == 413
    assert site.post("x" * (MAX_BODY_BYTES * 4)) == 413
    with socket.create_connection(("127.0.0.1", site.port)) as raw:
        raw.settimeout(20)
        raw.sendall(b"POST /events HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
        assert b" 413 " in raw.recv(1000)


def test_a_body_in_chunks_is_taken(site: Site) -> None:
    """Senders in Go and Node may not know its length beforehand."""
    chunks = iter([event("a.jpg")[:50].encode(), event("a.jpg")[50:].encode()])
    assert site.ask(body=chunks, **BEARER).status == 200


def test_where_submitting_fails_the_sender_is_asked_to_come_again(site: Site) -> None:
    """503, and the same event is taken once the store is back."""
    site.notes.failing = StoreUnavailable("down at s3.internal")
    answer = site.ask(body=event("a.jpg"), **BEARER)
    assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
    assert "s3.internal" not in answer.data.decode(), "what is wrong inside is for the log"
    site.notes.failing = None
    assert site.post(event("a.jpg")) == 200


def test_a_store_that_hangs_does_not_hold_the_sender(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked to come again; what it sent may have been submitted meanwhile, which is no harm."""
    monkeypatch.setattr(http, "ANSWER_WITHIN_S", 0.5)
    site.notes.open.clear()
    assert site.post(event("a.jpg")) == 503
    site.notes.open.set()


def test_health_is_answered_however_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that hangs is no reason to restart the listener; who comes on top is asked to come again."""
    monkeypatch.setattr(http, "SUBMITTING", 2)
    with serving(Notes()) as site:
        site.notes.open.clear()
        senders = [threading.Thread(target=site.post, args=(event(f"{number}.jpg"),)) for number in range(2)]
        for sender in senders:
            sender.start()
        until(lambda: not site.app._places._value, 30, "both places are taken")
        assert site.post(event("z.jpg")) == 503
        assert site.ask("/healthz", method="GET").status == 200
        site.notes.open.set()
        for sender in senders:
            sender.join(20)
        assert site.post(event("z.jpg")) == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/healthz", 200), ("HEAD", "/healthz", 200), ("POST", "/healthz", 405), ("HEAD", "/events", 200),
     ("GET", "/events", 405), ("PUT", "/events", 405), ("POST", "/", 404), ("POST", "/events/", 404),
     ("GET", "/../etc/passwd", 404)],
)  # fmt: skip
def test_other_requests(site: Site, method: str, path: str, status: int) -> None:
    """Health is for anybody; MinIO looks with HEAD; everything else is nowhere."""
    assert site.ask(path, method=method).status == status


def test_a_stopping_listener_answers_what_it_has_and_is_not_well() -> None:
    """A request that came before the stop gets its answer."""
    with serving(Notes()) as site:
        site.notes.open.clear()
        answers: list[int] = []
        sender = threading.Thread(target=lambda: answers.append(site.post(event("a.jpg"))))
        sender.start()
        until(lambda: site.notes.tries == 1, 30, "it is being submitted")
        site.stop.set()
        site.notes.open.set()
        sender.join(20)
    assert answers == [200]


@pytest.mark.parametrize("listen", ["no host", "127.0.0.1:1:2", "999.999.999.999:80"])
def test_where_nobody_can_listen_is_told_at_the_start(listen: str) -> None:
    """With the option to correct."""
    with pytest.raises(SettingsError, match="--http"):
        HttpSource(listen, lambda *_: [], threading.Event())


def test_half_open_connections_shut_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred and fifty that send half a request: others are answered meanwhile, and those are closed soon."""
    monkeypatch.setattr(http, "IDLE_S", 2, raising=False)
    with serving(Notes()) as site, ExitStack() as stack:
        half = [stack.enter_context(socket.create_connection(("127.0.0.1", site.port))) for _ in range(250)]
        for one in half:
            one.sendall(b"POST /events HTTP/1.1\r\n")
        assert urllib3.request("GET", f"http://127.0.0.1:{site.port}/healthz", timeout=30, retries=False).status == 200
        assert site.post(event("a.jpg")) == 200
        half[0].settimeout(10)
        assert half[0].recv(100) == b"", "closed"


def test_a_place_is_held_until_its_photos_are_submitted(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not until the sender is answered: while a store hangs, no more messages wait here than there are places."""
    monkeypatch.setattr(http, "ANSWER_WITHIN_S", 0.2)
    site.notes.open.clear()
    free = site.app._places._value
    assert [site.post(event(f"{number}.jpg")) for number in range(3)] == [503] * 3
    assert site.app._places._value == free - 3
    site.notes.open.set()
    until(lambda: site.app._places._value == free, 30, "they are free again")


def test_what_nobody_foresaw_is_no_senders_fault(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500, its place is free again, and the log tells where and no key."""
    free = site.app._places._value

    def breaks(body: bytes, source: str) -> None:
        raise ValueError("ann/private.jpg")

    with monkeypatch.context() as patch:
        patch.setattr(site.app._batcher, "take", breaks)
        assert site.post(event("a.jpg")) == 500
    assert site.app._places._value == free
    assert "ValueError in" in caplog.text
    assert "private" not in caplog.text
    assert site.post(event("a.jpg")) == 200


def test_logs_name_no_photo(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Neither why it could not be submitted, nor why the request is to come again, nor why it is refused."""
    before = logging.getLogRecordFactory()
    install()
    site.notes.failing = StoreUnavailable("no answer for 'anna/hospital.jpg'")
    assert site.post(event("anna/hospital.jpg")) == 503
    for key in ("anna/hospital" * 100, "anna/%ff"):
        record = samples.s3_record("a.jpg")
        record["s3"]["object"]["key"] = key
        assert site.post(json.dumps({"Records": [record]})) == 400
    logging.setLogRecordFactory(before)
    assert "are not submitted" in caplog.text
    assert "is refused" in caplog.text
    assert "anna" not in caplog.text


def test_an_object_that_is_not_there_is_named(site: Site) -> None:
    """A status of its own tells a backend, and is one of success: a store must not send the event again for ever."""
    site.notes.gone = {"nix.jpg"}
    answer = site.ask(body=event("a.jpg", "nix.jpg"), **BEARER)
    assert answer.status == 207
    assert answer.json()["photos"] == 1
    found = {one["key"]: one["result"] for one in answer.json()["results"]}
    assert found == {"a.jpg": "submitted", "nix.jpg": "missing"}
    answer = site.ask(body=event("nix.jpg"), **BEARER)
    assert (answer.status, answer.json()["photos"]) == (207, 0)


def test_a_record_that_is_left_out_is_told(site: Site) -> None:
    """With its reason, beside those that are submitted."""
    body = json.loads(event("a.jpg"))
    body["Records"].append({"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "uploads"}, "object": {}}})
    answer = site.ask(body=json.dumps(body), **BEARER)
    assert (answer.status, answer.json()["photos"], len(answer.json()["malformed"])) == (207, 1, 1)
