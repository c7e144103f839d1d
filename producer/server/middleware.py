"""Around every request: an id, safe headers, limits of its body, a line in the log, and its count."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING

from fastapi import HTTPException

from producer.server.auth import grant_of
from producer.server.metrics import IN_FLIGHT, NO_ROUTE, REQUESTS, SECONDS
from producer.server.problems import MEDIA_TYPE, Problem, ProblemDetails
from producer.server.services import Services
from producer.server.settings import is_loopback

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("producer.server.requests")

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
#: Routes that probes and Prometheus ask all the time.
QUIET = ("/healthz", "/readyz", "/metrics")

SAFE_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"cache-control": b"no-store",
    b"referrer-policy": b"no-referrer",
    b"x-frame-options": b"DENY",
    b"cross-origin-resource-policy": b"same-origin",
    # An answer of the API is no page: nothing in it is loaded, run or framed.
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
}
#: A refused body is read away for no longer, once the answer is sent.
LINGER_S = 5.0
HSTS = (b"strict-transport-security", b"max-age=31536000")


class Guard:
    """The middleware."""

    def __init__(self, app: ASGIApp, the: Services) -> None:
        self._app, self._the, self._serve = app, the, the.serve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given.decode() if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        scope["apf_request_id"] = request_id
        started, status = time.monotonic(), 499  # as nginx has it: who asked has gone before the answer

        body = _Body(receive, headers)

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _with_safe_headers(message["headers"], scope, request_id)
                if body.is_refused(status):  # the connection cannot go on
                    message["headers"].append((b"connection", b"close"))
            elif body.is_refused(status) and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await body.drop()
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        IN_FLIGHT.inc()
        try:
            if refusal := self._refusal(scope, headers):
                await _refuse(answer, request_id, refusal)
            else:
                await self._app(scope, self._bounded(scope, body), answer)
        except Exception:
            log.exception("%s %s: a bug", scope["method"], _route(scope))
            if status != 499:
                raise  # the answer has begun: all that is left is to break it off
            await _refuse(answer, request_id, Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "a bug: see the server's log"))
        finally:
            IN_FLIGHT.dec()
            _note(scope, status, time.monotonic() - started, request_id)

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> Problem | None:
        """Return why the request is not even looked at, before any of its body is read."""
        refusal = self._unknown(scope, headers) if self._the.keyring else _of_another_site(headers)
        length = headers.get(b"content-length", b"0")
        if refusal is None and length.isdigit() and int(length) > self._most(scope):
            return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _too_large(self._most(scope)))
        return refusal

    def _unknown(self, scope: Scope, headers: dict[bytes, bytes]) -> Problem | None:
        """Return why nobody is known by the request's token: bodies of strangers fill no memory."""
        if not scope["path"].startswith("/v1/"):
            return None
        kind, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        try:
            grant_of(self._the, token.strip() if kind.lower() == "bearer" else None)
        except Problem as problem:
            return problem
        return None

    def _most(self, scope: Scope) -> int:
        return self._serve.protect_max_bytes if scope["path"] == "/v1/protect" else self._serve.max_body_bytes

    def _bounded(self, scope: Scope, body: _Body) -> Receive:
        """Return what receives a body that is no larger and no slower than it may be; what it raises is answered."""
        left, deadline = self._most(scope), time.monotonic() + self._serve.body_timeout_s

        async def bounded() -> Message:
            nonlocal left
            if body.is_whole:
                return await body.receive()
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    message = await body.receive()
            except TimeoutError:
                late = f"the body was not here within {self._serve.body_timeout_s:g} s: send it in one go"
                raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, late) from None
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _too_large(self._most(scope)))
            return message

        return bounded


class _Body:
    """A request's body on its way here. Whoever is in the middle of sending hears no answer unless it is read on."""

    def __init__(self, receive: Receive, headers: dict[bytes, bytes]) -> None:
        self._receive = receive
        self.is_whole = headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers

    async def receive(self) -> Message:
        message = await self._receive()
        self.is_whole = not message.get("more_body", False)
        return message

    def is_refused(self, status: int) -> bool:
        return status >= HTTPStatus.BAD_REQUEST and not self.is_whole

    async def drop(self) -> None:
        """Read away what comes of it in a moment."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while not self.is_whole:
                    await self.receive()


def _too_large(most: int) -> str:
    return f"the body is over {most} bytes: send less, or have the operator raise the limit"


def _with_safe_headers(found: list[tuple[bytes, bytes]], scope: Scope, request_id: str) -> list[tuple[bytes, bytes]]:
    own = {name.lower() for name, _ in found}
    added = [(name, value) for name, value in SAFE_HEADERS.items() if name not in own]
    added += [HSTS] if scope["scheme"] == "https" else []
    return [*found, *added, (b"x-request-id", request_id.encode())]


def _of_another_site(headers: dict[bytes, bytes]) -> Problem | None:
    """Return why a request is refused that a page in a browser of this machine may have sent: no token is needed."""
    host = headers.get(b"host", b"").decode("latin-1")
    name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
    if not is_loopback(name.strip("[]")):
        return Problem(HTTPStatus.MISDIRECTED_REQUEST, f"Host {host!r} is not this machine's own: use 127.0.0.1")
    origin = headers.get(b"origin", b"").decode("latin-1")
    if origin and origin.partition("://")[2] != host:
        return Problem(HTTPStatus.FORBIDDEN, f"a page of {origin!r} may not ask this server: ask from no page")
    # What a page loads as a picture or script says no origin. A link from elsewhere may be followed.
    if (
        headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site")
        and headers.get(b"sec-fetch-mode") != b"navigate"
    ):
        return Problem(HTTPStatus.FORBIDDEN, "a page of another site may not ask this server: ask from no page")
    return None


async def _refuse(send: Send, request_id: str, problem: Problem) -> None:
    status = problem.status
    facts = ProblemDetails(title=status.phrase, status=status, detail=problem.detail, request_id=request_id)
    body = json.dumps(facts.model_dump()).encode()
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    headers += [(n.encode(), v.encode()) for n, v in problem.headers.items()]
    await send({"type": "http.response.start", "status": int(status), "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _route(scope: Scope) -> str:
    """Return the route's template, which is the same for every batch and photo."""
    return str(getattr(scope.get("route"), "path", NO_ROUTE))


def _note(scope: Scope, status: int, seconds: float, request_id: str) -> None:
    route = _route(scope)
    method = scope["method"] if scope["method"] in _METHODS else "other"
    REQUESTS.labels(method, route, str(status)).inc()
    SECONDS.labels(route).observe(seconds)
    level = logging.DEBUG if route in QUIET else logging.INFO
    client = (scope.get("client") or ("", 0))[0]
    log.log(
        level, "%s %s %d %.0f ms request=%s token=%s from=%s",
        method, route, status, 1000 * seconds, request_id, scope.get("apf_token", "-"), client,
    )  # fmt: skip
