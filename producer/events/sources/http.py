"""Events over HTTP: POST /events, answered once the batch is in a ledger; GET /healthz says that the process lives."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import TimeoutError as NotInTime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from producer.events.auth import Authenticator, Unauthorized
from producer.events.batcher import EventBatcher, Stopping, Taken
from producer.events.formats.s3 import MAX_BODY_BYTES
from producer.events.metrics import REFUSED
from producer.events.models import MalformedEvent, unforeseen
from workers.errors import SettingsError, WorkerError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

log = logging.getLogger(__name__)

NAME = "http"
#: A sender that waits longer has usually gone; what it sent is submitted all the same, and known when it comes again.
ANSWER_WITHIN_S = 25.0
#: What a sender is asked to wait when it is refused for now.
RETRY_AFTER_S = 5
#: Each request that is being submitted holds a thread. Some are kept for those that only ask how we are.
THREADS, SUBMITTING = 64, 60
#: Below the 1024 files that a process may have open as a rule. Who sends half a request holds one until it times out.
CONNECTIONS = 800
#: A connection on which nothing comes for so long is closed, after half as long again at the latest.
IDLE_S = 10

Answer = tuple[HTTPStatus, dict[str, Any], list[tuple[str, str]]]


class EventsApp:
    """The WSGI application."""

    def __init__(self, intake: EventBatcher, gate: Authenticator, stop: threading.Event) -> None:
        self._intake = intake
        self._gate = gate
        self._stop = stop
        self._places = threading.BoundedSemaphore(SUBMITTING)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        status, says, headers = self._answer(environ)
        body = json.dumps(says).encode() + b"\n"
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), *headers]
        start_response(f"{status.value} {status.phrase}", headers)
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]

    def _answer(self, environ: WSGIEnvironment) -> Answer:
        path, method = environ.get("PATH_INFO", ""), environ["REQUEST_METHOD"]
        if path == "/healthz":
            return self._health(method)
        if path != "/events":
            return _says(HTTPStatus.NOT_FOUND, "POST events to /events")
        if method == "HEAD":  # MinIO asks so whether anybody is there
            return HTTPStatus.OK, {}, []
        if method != "POST":
            return _says(HTTPStatus.METHOD_NOT_ALLOWED, "POST events", [("Allow", "POST, HEAD")])
        return self._events(environ)

    def _health(self, method: str) -> Answer:
        if method not in ("GET", "HEAD"):
            return _says(HTTPStatus.METHOD_NOT_ALLOWED, "GET this", [("Allow", "GET, HEAD")])
        if self._stop.is_set():
            return _says(HTTPStatus.SERVICE_UNAVAILABLE, "stopping")
        return HTTPStatus.OK, {"ok": True}, []

    def _events(self, environ: WSGIEnvironment) -> Answer:
        length = environ.get("CONTENT_LENGTH") or ""
        if not length.isdecimal():
            return _says(HTTPStatus.LENGTH_REQUIRED, "say the body's Content-Length")
        if int(length) > MAX_BODY_BYTES:
            REFUSED.labels(NAME, "too_large").inc()
            return _says(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"over {MAX_BODY_BYTES} bytes: send fewer events")
        body = environ["wsgi.input"].read(int(length))
        try:
            self._gate.check(_headers(environ), body)
        except Unauthorized as error:
            REFUSED.labels(NAME, "unauthorized").inc()
            log.warning("a request from %s is refused: %s", environ.get("REMOTE_ADDR"), error)
            # Which part was wrong stands in the log; a stranger is told nothing.
            return _says(HTTPStatus.UNAUTHORIZED, "not authorized", [("WWW-Authenticate", "Bearer")])
        return self._submit(body)

    def _submit(self, body: bytes) -> Answer:
        if not self._places.acquire(blocking=False):
            return self._later(f"{SUBMITTING} requests are being submitted already")
        try:
            future = self._intake.take(body, NAME)
        except Exception as error:
            self._places.release()
            return self._refused(error)
        # Not with the answer: a store that hangs would have ever more photos wait here.
        future.add_done_callback(lambda _: self._places.release())
        try:
            return _told(future.result(ANSWER_WITHIN_S))
        except NotInTime:
            return self._later(f"not done in {ANSWER_WITHIN_S} s")
        except WorkerError as error:  # the intake has logged its words, with keys hidden
            return self._later(f"its photos are not submitted ({type(error).__name__})")

    def _refused(self, error: Exception) -> Answer:
        if isinstance(error, Stopping):
            return self._later("the listener stops")
        if isinstance(error, MalformedEvent):
            REFUSED.labels(NAME, "malformed").inc()
            log.warning("a request is refused: %s", error)
            return _says(HTTPStatus.BAD_REQUEST, str(error))
        REFUSED.labels(NAME, "unforeseen").inc()
        log.error("a request is refused: %s", unforeseen(error))
        return _says(HTTPStatus.INTERNAL_SERVER_ERROR, "a bug: see the listener's log")

    def _later(self, why: str) -> Answer:
        REFUSED.labels(NAME, "busy").inc()
        log.warning("a request is to come again: %s", why)
        return _says(HTTPStatus.SERVICE_UNAVAILABLE, "try again", [("Retry-After", str(RETRY_AFTER_S))])


def _says(status: HTTPStatus, error: str, headers: list[tuple[str, str]] | None = None) -> Answer:
    return status, {"error": error}, headers or []


def _told(taken: Taken) -> Answer:
    """Return what became of each object. One that is not there has a status of success: a store would send it for
    ever.
    """
    results = [{"bucket": bucket, "key": key, "result": result} for (bucket, key), result in taken.results.items()]
    says = {"photos": taken.photos, "results": results, "malformed": list(taken.malformed)}
    return HTTPStatus.MULTI_STATUS if taken.is_short else HTTPStatus.OK, says, []


def _headers(environ: WSGIEnvironment) -> dict[str, str]:
    """Request headers by name in lower case."""
    found = {name: value for name, value in environ.items() if name.startswith("HTTP_") and isinstance(value, str)}
    return {name.removeprefix("HTTP_").replace("_", "-").lower(): value for name, value in found.items()}


class HttpSource:
    """The application behind waitress."""

    def __init__(self, listen: str, app: Callable[..., Iterable[bytes]], stop: threading.Event) -> None:
        """`listen`: host and port, as 0.0.0.0:8088 or [::]:8088.

        Raises:
            SettingsError: nobody may listen there, or it is no host and port.
        """
        from waitress import create_server  # noqa: PLC0415 - only where there is such a source

        self._stop = stop
        self._map: dict[int, Any] = {}
        try:
            self._server = create_server(
                app,
                map=self._map,
                listen=listen,
                threads=THREADS,
                connection_limit=CONNECTIONS,
                channel_timeout=IDLE_S,
                cleanup_interval=IDLE_S // 2,
                max_request_body_size=MAX_BODY_BYTES + 1,
                max_request_header_size=16 * 1024,
                ident=None,
                clear_untrusted_proxy_headers=True,
            )
        except (OSError, ValueError) as error:
            raise SettingsError(f"--http {listen}: cannot listen there: {error}") from error

    def run(self) -> None:
        """Serve until the stop, and then until all that came is answered."""
        from waitress import wasyncore  # noqa: PLC0415

        while not self._stop.is_set():
            wasyncore.loop(timeout=0.3, map=self._map, count=1, use_poll=True)
        until = time.monotonic() + ANSWER_WITHIN_S
        while self._is_busy() and time.monotonic() < until:
            wasyncore.loop(timeout=0.1, map=self._map, count=1, use_poll=True)
        self._server.task_dispatcher.shutdown(timeout=1)
        wasyncore.close_all(self._map, ignore_all=True)

    def _is_busy(self) -> bool:
        channels = [one for one in self._map.values() if hasattr(one, "requests")]
        return any(channel.requests or channel.total_outbufs_len for channel in channels)
