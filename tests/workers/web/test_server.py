"""The HTTP server's bounds, met over loopback by clients that do not behave."""

from __future__ import annotations

import asyncio
import logging
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import urllib3
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from tests.conftest import _free_ports
from workers.telemetry.http_endpoint import THREADS, endpoint
from workers.web.bodies import BodyTooLarge, RefusedBody, read_body
from workers.web.server import Bounds, bound_sockets, make_server

LARGE = b"x" * 32 * 1024 * 1024


async def _body(request: Request) -> Response:
    try:
        return PlainTextResponse(str(len(await read_body(request, 1000))))
    except BodyTooLarge:
        return RefusedBody({"error": "too large"}, 413)


async def _large(_: Request) -> Response:
    return Response(LARGE)


async def _slow(_: Request) -> Response:
    await asyncio.sleep(1.2)
    return JSONResponse({})


@contextmanager
def serving(app: Starlette | None = None, **bounds: float) -> Iterator[int]:
    """A server in a thread; its port."""
    routes = [Route("/body", _body, methods=["POST"]), Route("/large", _large), Route("/slow", _slow)]
    sockets = bound_sockets("127.0.0.1", 0)
    server = make_server(app or Starlette(routes=routes), Bounds(**{"idle_s": 0.4, "grace_s": 1, **bounds}))  # type: ignore[arg-type]
    thread = threading.Thread(target=server.run, args=(sockets,))
    thread.start()
    try:
        yield sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def get(port: int, path: str = "/slow", **headers: str) -> urllib3.BaseHTTPResponse:
    return urllib3.request("GET", f"http://127.0.0.1:{port}{path}", timeout=30, retries=False, headers=headers)


def closes(client: socket.socket, within_s: float = 5) -> bool:
    """Whether the server ends the connection; what it sends before is thrown away."""
    client.settimeout(within_s)
    try:
        while client.recv(65536):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize(
    "sent",
    [b"", b"POST /body HT", b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc",
     b"GET /none HTTP/1.1\r\nHost: x\r\n\r\n"],
    ids=["nothing", "half a line", "half a body", "and nothing more"],
)  # fmt: skip
def test_a_silent_connection_is_closed(sent: bytes) -> None:
    """Whatever it sent before it fell silent."""
    with serving() as port, socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(sent)
        assert closes(client)


def test_an_answer_that_nobody_takes_is_thrown_away() -> None:
    """The connection of a client that reads nothing is closed, and its answer's memory is free again."""
    with serving() as port, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(1.5)
        received = 0
        client.settimeout(5)
        try:
            while part := client.recv(1 << 20):
                received += len(part)
        except ConnectionResetError:
            pass
        assert received < len(LARGE) / 2


def test_an_answer_that_is_taken_slowly_arrives_whole() -> None:
    """It takes several times as long as a connection may be silent."""
    with serving() as port, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        client.connect(("127.0.0.1", port))
        client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = 0
        while part := client.recv(1 << 20):
            received += len(part)
            time.sleep(0.04)
        assert received > len(LARGE)


def test_a_request_that_is_worked_on_is_waited_for() -> None:
    """It takes longer than a connection may be silent."""
    with serving() as port:
        assert get(port).status == 200


def test_one_connection_too_many_closes_the_longest_silent() -> None:
    """The new one is answered, and so is the one that is being worked on."""
    with serving(connections=5, idle_s=30) as port, ExitStack() as stack:
        busy = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        busy.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        time.sleep(0.1)
        half = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(4)]
        time.sleep(0.1)
        assert get(port).status == 200
        assert closes(half[0])
        busy.settimeout(5)
        assert b"200 OK" in busy.recv(1000)


def test_long_headers_are_refused() -> None:
    """400, and no more than the limit is held."""
    with serving() as port, socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 20_000)
        assert b" 400 " in client.recv(1000)


def test_a_large_body_is_refused_whether_it_says_its_size_or_not() -> None:
    """Its sender reads the answer although it was still sending."""
    with serving() as port:
        url = f"http://127.0.0.1:{port}/body"
        for body in (b"x" * 1001, LARGE[: 4 << 20], iter([b"x" * 600] * 2), iter([b"x" * 100_000] * 40)):
            answer = urllib3.request("POST", url, body=body, timeout=30, retries=False)
            assert (answer.status, answer.json()) == (413, {"error": "too large"})
        assert urllib3.request("POST", url, body=iter([b"x" * 500] * 2), timeout=30).data == b"1000"


def test_a_stop_waits_for_what_is_begun_and_no_longer() -> None:
    """An answer in the making is sent; a request of which half has come does not hold up the end."""
    answers: list[int] = []
    with serving(grace_s=5, idle_s=60) as port, socket.create_connection(("127.0.0.1", port)) as half:
        half.sendall(b"POST /body HT")
        thread = threading.Thread(target=lambda: answers.append(get(port).status))
        thread.start()
        time.sleep(0.3)
    thread.join(10)
    assert answers == [200]


def test_a_host_is_listened_at_on_all_its_addresses_or_on_none() -> None:
    """Where the second address is taken, the first is free again."""
    port = _free_ports([0])
    names = [socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM)[-1]]
    with socket.socket(names[0][0]) as taken:
        taken.bind(names[0][4])
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            bound_sockets("localhost", port)
    for one in bound_sockets("localhost", port):
        one.close()


def test_a_log_has_no_word_of_clients_that_misbehave(caplog: pytest.LogCaptureFixture) -> None:
    """Neither of what is no HTTP nor of who leaves in the middle of a body."""
    with serving(idle_s=30) as port:
        for sent in (b"\x16\x03\x01\x02\r\n\r\n", b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(sent)
                time.sleep(0.2)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


class Hanging(Collector):
    """A metric that is not made until `go` is set."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def collect(self) -> Iterator[Metric]:
        if not self.go.wait(20):
            raise TimeoutError
        yield GaugeMetricFamily("x", "x", value=1)

    def describe(self) -> list[Metric]:
        return []


def test_health_is_answered_while_scrapes_hang() -> None:
    """However many; each gets its answer in the end."""
    hanging, registry = Hanging(), CollectorRegistry()
    registry.register(hanging)
    answers: list[int] = []
    with serving(endpoint(registry, lambda: True), idle_s=30) as port:
        scrapes = [
            threading.Thread(target=lambda: answers.append(get(port, "/metrics").status)) for _ in range(THREADS + 2)
        ]
        for scrape in scrapes:
            scrape.start()
        time.sleep(0.3)
        assert get(port, "/healthz").data == b"OK\n"
        hanging.go.set()
        for scrape in scrapes:
            scrape.join(20)
    assert answers == [200] * len(scrapes)


def test_metrics_are_served_as_prometheus_asks_for_them() -> None:
    """In its old and its new format, packed or not, whole or some of them."""
    registry = CollectorRegistry()
    for name in ("one", "two"):
        Counter(f"{name}_events", "x" * 1000, registry=registry).inc()
    with serving(endpoint(registry, lambda: False), idle_s=30) as port:
        plain = get(port, "/metrics")
        assert plain.headers["Content-Type"].startswith("text/plain; version=")
        assert "content-encoding" not in plain.headers
        assert get(port, "/metrics", **{"Accept-Encoding": "gzip"}).headers["content-encoding"] == "gzip"
        open_format = get(port, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
        assert open_format.data.endswith(b"# EOF\n")
        some = get(port, "/metrics?name[]=one_events_total").data
        assert b"one_events_total 1.0" in some
        assert b"two_events" not in some
        assert get(port, "/healthz").status == 503
        assert get(port, "/metrics/").status == 404


def test_requests_are_answered_at_once_and_leave_no_file_open() -> None:
    """Two hundred one after another: none waits for TCP to gather its answer, and as many files are open after them."""
    with serving(idle_s=30) as port:
        get(port, "/none")
        before = len(list(Path("/proc/self/fd").iterdir()))
        took = []
        for _ in range(200):
            started = time.monotonic()
            get(port, "/none").close()
            took.append(time.monotonic() - started)
        assert statistics.median(took) < 0.03
        time.sleep(1)
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2
