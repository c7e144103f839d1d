"""Run the server until SIGTERM: requests in hand are answered, streams end."""

from __future__ import annotations

import logging
import signal
import socket
from types import FrameType

import uvicorn
from prometheus_client import disable_created_metrics
from starlette.types import ASGIApp

from producer.server.app import make_app
from producer.server.connection import Connection
from producer.server.services import Services, make_services
from producer.server.settings import ServeSettings, check_serving
from workers.config.settings import Settings
from workers.errors import SettingsError
from workers.web.server import bound_sockets

log = logging.getLogger(__name__)

#: Bytes of a request's head.
MOST_HEAD_BYTES = 32 * 1024
#: A connection on which nothing comes is closed after so long.
IDLE_S = 15


class _Server(uvicorn.Server):
    """uvicorn's, which tells streams that they are to end."""

    def __init__(self, config: uvicorn.Config, services: Services) -> None:
        super().__init__(config)
        self._services = services

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._services.stopping.set()
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port = (sockets or self.servers[0].sockets)[0].getsockname()[:2]
        log.info("serving on http://%s:%d", f"[{host}]" if ":" in host else host, port)


def run(serve: ServeSettings, settings: Settings) -> None:
    """Serve until SIGTERM.

    Raises:
        SettingsError: it may not be served so, or the address cannot be listened on.
    """
    disable_created_metrics()  # type: ignore[no-untyped-call]
    services = make_services(settings, serve)
    check_serving(serve, settings, has_tokens=bool(services.keyring))
    config = uvicorn_config(make_app(services), serve, settings)
    server = _Server(config, services)
    try:
        sockets = bound_sockets(serve.host, serve.port)
    except (OSError, OverflowError) as error:
        raise SettingsError(
            f"nothing can be served on {serve.host}:{serve.port}: set APF_SERVE_HOST to an address of this machine and "
            "APF_SERVE_PORT to a port that is free"
        ) from error
    # uvicorn raises what ended it once more at its end, which is then no error.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)
    server.run(sockets)


def uvicorn_config(app: ASGIApp, serve: ServeSettings, settings: Settings) -> uvicorn.Config:
    """Return how uvicorn is to serve."""
    return uvicorn.Config(
        app,
        host=serve.host,
        port=serve.port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(serve.proxies.split()),
        forwarded_allow_ips=serve.proxies.split(),
        limit_concurrency=serve.connections,
        h11_max_incomplete_event_size=MOST_HEAD_BYTES,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=max(1, int(settings.shutdown_grace_s)),
        http=Connection,
        ws="none",
    )
