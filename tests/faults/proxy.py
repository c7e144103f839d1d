"""A TCP proxy that breaks connections on purpose, between the code under test and a real server."""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

#: What happens to what passes. `cut_get` and `cut_put` reset the connection halfway through an answer or a request.
Mode = Literal["pass", "down", "500", "503", "expired", "slow", "cut_get", "cut_put"]

CHUNK = 16 * 1024
#: Bytes after which a connection is cut: more than any request's or answer's head.
CUT_AFTER = 24 * 1024
SLOW_S = 0.25

_ERRORS = {
    "500": (b"500 Internal Server Error", b"InternalError"),
    "503": (b"503 Service Unavailable", b"SlowDown"),
    "expired": (b"400 Bad Request", b"ExpiredToken"),
}


@dataclass(eq=False)
class _Link:
    """One client's connection and, where there is one, its connection to the server."""

    client: socket.socket
    server: socket.socket | None = None

    def close(self) -> None:
        """Closes what is still open."""
        for end in (self.client, self.server):
            if end is not None:
                end.close()

    def reset(self) -> None:
        """Closes both at once with RST, as a crash does."""
        for end in (self.client, self.server):
            if end is None:
                continue
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            with suppress(OSError):
                end.close()


class FaultProxy:
    """Listens on loopback and passes everything on to a port there, or does what its mode says."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.hits = 0
        self._mode: Mode = "pass"
        self._cuts = 0
        self._links: set[_Link] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, name="fault-proxy", daemon=True).start()

    @property
    def mode(self) -> Mode:
        return self._mode

    def set(self, mode: Mode, *, cuts: int = 1) -> None:
        """Change what happens. Open connections are reset but for `slow`, so that no one escapes through an old one.

        Args:
            cuts: how many connections `cut_get` and `cut_put` cut, before all pass again.
        """
        self._mode, self._cuts, self.hits = mode, cuts, 0
        if mode not in ("pass", "slow"):
            self._reset_all()

    def close(self) -> None:
        self._mode = "down"
        self._listener.close()
        self._reset_all()

    def _reset_all(self) -> None:
        with self._lock:
            links, self._links = self._links, set()
        for link in links:
            link.reset()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            link = _Link(client)
            with self._lock:
                self._links.add(link)
            threading.Thread(target=self._serve, args=[link], daemon=True).start()

    def _serve(self, link: _Link) -> None:
        mode = self._mode  # read once: a test may set another meanwhile
        try:
            if mode == "down":
                self.hits += 1
                link.reset()
            elif mode in _ERRORS:
                self._answer_errors(link, *_ERRORS[mode])
            else:
                self._pass(link)
        except OSError:
            link.reset()
        finally:
            link.close()
            with self._lock:
                self._links.discard(link)

    def _answer_errors(self, link: _Link, status: bytes, code: bytes) -> None:
        """Read one request's head and answer it; the body is not waited for."""
        head = b""
        while b"\r\n\r\n" not in head and (data := link.client.recv(CHUNK)):
            head += data
        self.hits += 1
        body = b"<Error><Code>" + code + b"</Code><Message>on purpose</Message></Error>"
        answer = b"HTTP/1.1 %s\r\nContent-Type: application/xml\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        link.client.sendall(answer % (status, len(body)) + (b"" if head.startswith(b"HEAD") else body))
        # What the client still sends is read, or it would see a reset instead of the answer.
        link.client.settimeout(1)
        with suppress(OSError):
            while link.client.recv(CHUNK):
                pass
        link.reset()

    def _pass(self, link: _Link) -> None:
        link.server = socket.create_connection(("127.0.0.1", self.target_port))
        up = threading.Thread(target=self._pump, args=[link, link.client, link.server, "cut_put"], daemon=True)
        up.start()
        self._pump(link, link.server, link.client, "cut_get")
        up.join()

    def _pump(self, link: _Link, source: socket.socket, sink: socket.socket, cut: Mode) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(CHUNK):
                if self._mode == "slow":
                    time.sleep(SLOW_S)
                passed += len(data)
                if self._mode == cut and passed > CUT_AFTER and self._take_cut():
                    link.reset()
                    return
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def _take_cut(self) -> bool:
        with self._lock:
            self._cuts -= 1
            self.hits += self._cuts >= 0
            return self._cuts >= 0
