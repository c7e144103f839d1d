"""Serve the app: one process for each user, on loopback, until it is told to end."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import uvicorn

from producer.app.albums import Albums
from producer.app.folders import Folders
from producer.app.guard import Guard
from producer.app.server import Pages
from workers.config.settings import Settings


class OtherApp(Exception):
    """Raised where another process serves these albums already."""

    def __init__(self, link: str) -> None:
        super().__init__(link)
        self.link = link


def serve(
    listener: socket.socket,
    token: str,
    link: str,
    work: Path,
    places: Sequence[Path],
    settings: Settings,
    ready: Callable[[], None],
) -> None:
    """Serve until a signal, or until the page's own button ends it.

    Args:
        listener: on loopback.
        link: what `listener` is reached by, with the token.
        ready: called once the page can be opened.

    Raises:
        OtherApp: another process serves these albums.
    """
    albums = Albums(work)
    with alone(work, link):
        server: uvicorn.Server

        def end() -> None:
            server.should_exit = True

        pages = Pages(albums, settings, Folders(places), end)
        pages.start()
        guarded = Guard(pages.app(), port=listener.getsockname()[1], token=token)
        config = uvicorn.Config(
            guarded, log_level="warning", access_log=False, server_header=False, lifespan="off", ws="none"
        )
        server = uvicorn.Server(config)
        ready()
        server.run(sockets=[listener])
    # A shard that runs is left as a kill would leave it, and goes on with the next start: nobody waits for it.
    os._exit(0)


@contextmanager
def alone(work: Path, link: str) -> Iterator[None]:
    """Keep other processes from the same albums while the block runs; the system itself ends it with the process.

    Raises:
        OtherApp: another has them.
    """
    place = work / "link"
    try:
        import fcntl  # noqa: PLC0415  not on Windows
    except ImportError:
        yield
        return
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OtherApp(place.read_text() if place.exists() else "") from None
        place.touch(mode=0o600)
        place.write_text(link)
        yield
        with suppress(OSError):
            place.unlink()
