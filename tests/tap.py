"""A TCP relay that keeps every byte that passes, so that a test can say what was never sent."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from urllib.parse import urlsplit, urlunsplit

CHUNK = 64 * 1024


class Tap:
    """Listens on loopback and passes everything on to the server of a URL; `url` leads through it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname and parts.port
        self._target = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = urlunsplit(parts._replace(netloc=f"127.0.0.1:{self._listener.getsockname()[1]}"))
        self._streams: list[bytearray] = []
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, name="tap", daemon=True)]
        self._threads[0].start()

    @property
    def seen(self) -> bytes:
        """All that has passed, each direction of each connection in one piece."""
        return b"\0\0".join(map(bytes, self._streams))

    def close(self) -> None:
        """Ends all connections."""
        for one in (self._listener, *self._sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for one in (self._listener, *self._sockets):
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._sockets += [client, server]
                for source, sink in ((client, server), (server, client)):
                    stream = bytearray()
                    self._streams.append(stream)
                    thread = threading.Thread(target=_relay, args=(source, sink, stream), daemon=True)
                    self._threads.append(thread)
                    thread.start()


def _relay(source: socket.socket, sink: socket.socket, stream: bytearray) -> None:
    with suppress(OSError):
        while data := source.recv(CHUNK):
            stream += data
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
