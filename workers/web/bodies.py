"""Read a request's body up to a limit, and refuse a larger one so that its sender learns why."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

#: Of a body that is refused, so much is read, for so long: a connection that is closed while its sender still sends is
#: reset, and the answer is lost.
LINGER_BYTES, LINGER_S = 8 * 1024 * 1024, 5.0


class BodyTooLarge(Exception):
    """Raised when a body is over the limit, or says that it will be."""


async def read_body(request: Request, at_most: int) -> bytes:
    """Return the whole body.

    Raises:
        BodyTooLarge: over `at_most` bytes; answer with `RefusedBody`.
        ClientDisconnect: the sender has gone.
    """
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said) > at_most:
        raise BodyTooLarge
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > at_most:
            raise BodyTooLarge
    return bytes(body)


class RefusedBody(JSONResponse):
    """An answer to a request whose body is not read: sent at once, and the connection closed soon after."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [*self.raw_headers, (b"connection", b"close")]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                await _drop(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _drop(receive: Receive) -> None:
    dropped, more = 0, True
    while more and dropped < LINGER_BYTES:
        message = await receive()
        dropped += len(message.get("body", b""))
        more = message.get("more_body", False)
