"""Receivers of callbacks on loopback: real servers that answer as a test wants, and keep what they got."""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from standardwebhooks import Webhook

SECRETS = tuple(f"whsec_{base64.b64encode(bytes([number]) * 32).decode()}" for number in (1, 2))

#: What lets a worker call the receivers here.
LOOPBACK = {
    "callback_secrets": SECRETS[0],
    "callback_allowed_hosts": "127.0.0.1/32",
    "callback_allow_http": True,
}


@dataclass
class Got:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def verified(self, secret: str = SECRETS[0]) -> Any:
        """The event, once an implementation that is not ours has verified it."""
        return Webhook(secret).verify(self.body, self.headers)


Answer = Callable[[BaseHTTPRequestHandler], None]


def status(code: int, **headers: str) -> Answer:
    """Answers with this status; headers' underscores stand for hyphens."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "2")
        handler.end_headers()
        handler.wfile.write(b"ok")

    return answer


def hangs(handler: BaseHTTPRequestHandler) -> None:
    """Says nothing, for longer than anybody waits; its thread ends with the process."""
    time.sleep(20)


def drips(handler: BaseHTTPRequestHandler) -> None:
    """Sends a byte of an endless header now and then, so that no time-out of the socket ever ends."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    for _ in range(200):
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.1)


def floods(handler: BaseHTTPRequestHandler) -> None:
    """Answers 200 and then megabytes."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(2**30))
    handler.end_headers()
    for _ in range(256):
        handler.wfile.write(b"x" * 2**20)
    time.sleep(20)


@dataclass
class Receiver:
    """Keeps what it got; gives its answers in turn, the last one for ever."""

    url: str = ""
    got: list[Got] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=lambda: [status(200)])
    #: Called before each answer.
    before: Callable[[], object] = lambda: None

    def next_answer(self) -> Answer:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def events(self) -> list[Any]:
        return [json.loads(got.body) for got in self.got]


@contextmanager
def receiving(*answers: Answer, certificate: Path | None = None) -> Iterator[Receiver]:
    """A receiver on a port of its own, over TLS where there is a certificate (a .pem with a .key beside it)."""
    receiver = Receiver()
    if answers:
        receiver.answers = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.got.append(Got(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            receiver.before()
            receiver.next_answer()(self)

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """A client that leaves is what some of these tests are about."""

    with Server(("127.0.0.1", 0), Handler) as server:
        receiver.url = f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}/hook?token=hunter2"
        if certificate:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate, certificate.with_suffix(".key"))
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
