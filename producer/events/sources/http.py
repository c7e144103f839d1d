"""Events over HTTP: POST /events, answered once the batch is in a ledger; GET /healthz says that the process lives."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import Future
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from producer.events.auth import Authenticator, Unauthorized
from producer.events.batcher import EventBatcher, Stopping, Taken
from producer.events.formats.s3 import MAX_BODY_BYTES
from producer.events.metrics import REFUSED
from producer.events.models import MalformedEvent, unforeseen
from workers.errors import SettingsError, WorkerError
from workers.web.bodies import BodyTooLarge, RefusedBody, read_body
from workers.web.server import Bounds, bound_sockets, make_server

log = logging.getLogger(__name__)

NAME = "http"
#: A sender that waits longer has usually gone; what it sent is submitted all the same, and known when it comes again.
ANSWER_WITHIN_S = 25.0
#: What a sender is asked to wait when it is refused for now.
RETRY_AFTER_S = 5
#: Requests that are submitted at once.
SUBMITTING = 60
#: As in `Bounds`.
CONNECTIONS, IDLE_S = 800, 10
#: What is told of a path and of a method that are none.
NOWHERE = {404: "POST events to /events", 405: "POST events, or GET /healthz"}


class EventsApp:
    """The ASGI application."""

    def __init__(self, batcher: EventBatcher, authenticator: Authenticator, stop: threading.Event) -> None:
        self._batcher = batcher
        self._authenticator = authenticator
        self._stop = stop
        self._places = threading.BoundedSemaphore(SUBMITTING)
        routes = [
            Route("/healthz", self._health),
            Route("/events", self._events, methods=["HEAD", "POST"]),
        ]
        self._app = Starlette(routes=routes, exception_handlers={HTTPException: _nowhere})
        self._app.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    async def _health(self, _: Request) -> Response:
        if self._stop.is_set():
            return _says(HTTPStatus.SERVICE_UNAVAILABLE, "stopping")
        return JSONResponse({"ok": True})

    async def _events(self, request: Request) -> Response:
        if request.method == "HEAD":  # MinIO asks so whether anybody is there
            return JSONResponse({})
        try:
            body = await read_body(request, MAX_BODY_BYTES)
        except BodyTooLarge:
            REFUSED.labels(NAME, "too_large").inc()
            error = {"error": f"over {MAX_BODY_BYTES} bytes: send fewer events"}
            return RefusedBody(error, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        try:
            self._authenticator.check(request.headers, body)
        except Unauthorized as error:
            REFUSED.labels(NAME, "unauthorized").inc()
            log.warning("a request from %s is refused: %s", request.client and request.client.host, error)
            # Which part was wrong stands in the log; a stranger is told nothing.
            return _says(HTTPStatus.UNAUTHORIZED, "not authorized", {"WWW-Authenticate": "Bearer"})
        return await self._submit(body)

    async def _submit(self, body: bytes) -> Response:
        if not self._places.acquire(blocking=False):
            return self._later(f"{SUBMITTING} requests are being submitted already")
        try:
            future: Future[Taken] = await run_in_threadpool(self._batcher.take, body, NAME)
        except Exception as error:
            self._places.release()
            return self._refused(error)
        # Not with the answer: a store that hangs would have ever more photos wait here.
        future.add_done_callback(lambda _: self._places.release())
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                return _told(await asyncio.shield(asyncio.wrap_future(future)))
        except TimeoutError:
            return self._later(f"not done in {ANSWER_WITHIN_S} s")
        except WorkerError as error:  # the batcher has logged its words, with keys hidden
            return self._later(f"its photos are not submitted ({type(error).__name__})")

    def _refused(self, error: Exception) -> Response:
        if isinstance(error, Stopping):
            return self._later("the listener stops")
        if isinstance(error, MalformedEvent):
            REFUSED.labels(NAME, "malformed").inc()
            log.warning("a request is refused: %s", error)
            return _says(HTTPStatus.BAD_REQUEST, str(error))
        REFUSED.labels(NAME, "unforeseen").inc()
        log.error("a request is refused: %s", unforeseen(error))
        return _says(HTTPStatus.INTERNAL_SERVER_ERROR, "a bug: see the listener's log")

    def _later(self, why: str) -> Response:
        REFUSED.labels(NAME, "busy").inc()
        log.warning("a request is to come again: %s", why)
        return _says(HTTPStatus.SERVICE_UNAVAILABLE, "try again", {"Retry-After": str(RETRY_AFTER_S)})


def _says(status: int, error: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": error}, status, headers)


async def _nowhere(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for no other
    return _says(error.status_code, NOWHERE.get(error.status_code, error.detail), dict(error.headers or {}))


def _told(taken: Taken) -> Response:
    """Return what became of each object. One that is not there has a status of success: a store would send it for
    ever.
    """
    results = [{"bucket": bucket, "key": key, "result": result} for (bucket, key), result in taken.results.items()]
    says = {"photos": taken.photos, "results": results, "malformed": list(taken.malformed)}
    return JSONResponse(says, HTTPStatus.MULTI_STATUS if taken.is_short else HTTPStatus.OK)


class HttpSource:
    """The application behind uvicorn."""

    def __init__(self, listen: str, app: ASGIApp, stop: threading.Event) -> None:
        """`listen`: host and port, as 0.0.0.0:8088 or [::]:8088.

        Raises:
            SettingsError: nobody may listen there, or it is no host and port.
        """
        self._stop = stop
        host, _, port = listen.rpartition(":")
        try:
            self._sockets = bound_sockets(host.strip("[]*") or None, int(port))
        except (OSError, ValueError, OverflowError) as error:
            raise SettingsError(f"--http {listen}: cannot listen there: {error}") from error
        self._server = make_server(app, Bounds(connections=CONNECTIONS, idle_s=IDLE_S, grace_s=ANSWER_WITHIN_S))

    def run(self) -> None:
        """Serve until the stop, and then until all that came is answered."""
        threading.Thread(target=self._await_stop, name="http stop", daemon=True).start()
        self._server.run(self._sockets)

    def _await_stop(self) -> None:
        self._stop.wait()
        self._server.should_exit = True
