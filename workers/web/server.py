"""Run an ASGI application on uvicorn, in whatever thread, with bounds on connections, silence and headers.

uvicorn by itself waits for ever for a request that is never finished, and accepts connections until no file is left.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import uvicorn
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a server grants to those who connect."""

    #: Below the 1024 files that a process may have open as a rule. One more, and the longest silent one is closed.
    connections: int = 800
    #: A connection on which nothing comes, or nothing is taken off, for so long is closed; after half as long again at
    #: the latest. A request that the application works on is none.
    idle_s: float = 10.0
    header_bytes: int = 16 * 1024
    #: A server that stops waits so long for what it has begun.
    grace_s: float = 25.0


def bound_sockets(host: str | None, port: int) -> list[socket.socket]:
    """Return sockets that listen at all addresses of a host; None: everywhere.

    Raises:
        OSError, OverflowError: one cannot be listened at.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    with ExitStack() as opened:
        sockets = []
        for family, kind, protocol, _, address in dict.fromkeys(found):
            # With its protocol, or asyncio leaves Nagle's algorithm on, which holds up each answer for 40 ms.
            one = opened.enter_context(socket.socket(family, kind, protocol))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind(address)
            one.listen(1024)
            sockets.append(one)
        opened.pop_all()
    return sockets


def make_server(app: ASGIApp, bounds: Bounds) -> uvicorn.Server:
    """Return a server: `run(sockets)` blocks until `should_exit` is set, and then until all is answered."""
    config = uvicorn.Config(
        _quiet(app),
        loop="asyncio",
        http=cast("type[asyncio.Protocol]", partial(BoundedProtocol, bounds=bounds)),
        ws="none",
        log_config=None,
        log_level=logging.ERROR,  # starts, stops and malformed requests are no news
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=math.ceil(bounds.idle_s),
        timeout_graceful_shutdown=math.ceil(bounds.grace_s),
        h11_max_incomplete_event_size=bounds.header_bytes,
    )
    return uvicorn.Server(config)


def _quiet(app: ASGIApp) -> ASGIApp:
    """Return the application, for which it is no error that a client leaves before its request is whole."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ClientDisconnect):
            await app(scope, receive, send)

    return answer


class BoundedProtocol(H11Protocol):
    """A connection that is closed once the other side is silent too long, or room is needed for another one."""

    def __init__(self, *args: Any, bounds: Bounds, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._bounds = bounds
        self._heard = self.loop.time()
        self._unsent = 0
        self._watch = self.loop.call_later(bounds.idle_s, self._look)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._bounds.connections:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        self._heard = self.loop.time()
        super().data_received(data)

    def on_response_complete(self) -> None:
        self._heard = self.loop.time()
        super().on_response_complete()

    def resume_writing(self) -> None:
        self._heard = self.loop.time()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._watch.cancel()
        super().connection_lost(exc)

    @property
    def _is_silent(self) -> bool:
        """Whether it is the other side's turn: to send a request, its body's rest, or to take the answer."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or self.flow.write_paused:
            return True
        return cycle.more_body and not self.flow.read_paused

    def _look(self) -> None:
        before, self._unsent = self._unsent, self.transport.get_write_buffer_size()
        if self._unsent < before:
            self._heard = self.loop.time()
        left = self._heard + self._bounds.idle_s - self.loop.time()
        if left <= 0 and self._is_silent:
            self.transport.abort()
        self._watch = self.loop.call_later(max(left, self._bounds.idle_s / 2), self._look)

    def _make_room(self) -> None:
        others = [each for each in self.connections if isinstance(each, BoundedProtocol) and each._is_silent]
        oldest = min((each for each in others if not each.transport.is_closing()), key=lambda each: each._heard)
        oldest.transport.abort()
