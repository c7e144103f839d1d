"""Around every request: an id, safe headers, limits of its body, a line in the log, and its count."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

from fastapi import HTTPException

from producer.server.metrics import IN_FLIGHT, NO_ROUTE, REQUESTS, SECONDS
from producer.server.problems import MEDIA_TYPE, ProblemDetails
from producer.server.settings import ServeSettings, is_loopback

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
HSTS = (b"strict-transport-security", b"max-age=31536000")


class Guard:
    """The middleware."""

    def __init__(self, app: ASGIApp, serve: ServeSettings, *, has_tokens: bool) -> None:
        self._app, self._serve, self._has_tokens = app, serve, has_tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given.decode() if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        scope["apf_request_id"] = request_id
        started, status = time.monotonic(), 499  # as nginx has it: who asked has gone before the answer

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _with_safe_headers(message["headers"], scope, request_id)
            await send(message)

        IN_FLIGHT.inc()
        try:
            if refusal := self._refusal(scope, headers):
                await _refuse(answer, request_id, *refusal)
            else:
                await self._app(scope, self._bounded(scope, receive), answer)
        except Exception:
            log.exception("%s %s: a bug", scope["method"], _route(scope))
            if status != 499:
                raise  # the answer has begun: all that is left is to break it off
            await _refuse(answer, request_id, HTTPStatus.INTERNAL_SERVER_ERROR, "a bug: see the server's log")
        finally:
            IN_FLIGHT.dec()
            _note(scope, status, time.monotonic() - started, request_id)

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> tuple[HTTPStatus, str] | None:
        """Return why the request is not even looked at: without tokens, any page in a browser could send it."""
        if not self._has_tokens:
            host = headers.get(b"host", b"").decode("latin-1")
            name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
            if not is_loopback(name.strip("[]")):
                return HTTPStatus.MISDIRECTED_REQUEST, f"Host {host!r} is not this machine's own: use 127.0.0.1"
            origin = headers.get(b"origin", b"").decode("latin-1")
            if origin and origin.partition("://")[2] != host:
                return HTTPStatus.FORBIDDEN, f"a page of {origin!r} may not ask this server: ask from no page"
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._most(scope):
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _too_large(self._most(scope))
        return None

    def _most(self, scope: Scope) -> int:
        return self._serve.protect_max_bytes if scope["path"] == "/v1/protect" else self._serve.max_body_bytes

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """Return `receive` for a body that is no larger and no slower than it may be; what it raises is answered."""
        left, deadline = self._most(scope), time.monotonic() + self._serve.body_timeout_s
        is_whole = False

        async def bounded() -> Message:
            nonlocal left, is_whole
            if is_whole:
                return await receive()
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    message = await receive()
            except TimeoutError:
                late = f"the body was not here within {self._serve.body_timeout_s:g} s: send it in one go"
                raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, late, {"Connection": "close"}) from None
            left -= len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if left < 0:
                too_large = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
                raise HTTPException(too_large, _too_large(self._most(scope)), {"Connection": "close"})
            return message

        return bounded


def _too_large(most: int) -> str:
    return f"the body is over {most} bytes: send less, or have the operator raise the limit"


def _with_safe_headers(found: list[tuple[bytes, bytes]], scope: Scope, request_id: str) -> list[tuple[bytes, bytes]]:
    own = {name.lower() for name, _ in found}
    added = [(name, value) for name, value in SAFE_HEADERS.items() if name not in own]
    added += [HSTS] if scope["scheme"] == "https" else []
    return [*found, *added, (b"x-request-id", request_id.encode())]


async def _refuse(send: Send, request_id: str, status: HTTPStatus, detail: str) -> None:
    facts = ProblemDetails(title=status.phrase, status=status, detail=detail, request_id=request_id)
    body = json.dumps(facts.model_dump()).encode()
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    # What is left of the body is not read: the connection cannot go on.
    headers.append((b"connection", b"close"))
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
