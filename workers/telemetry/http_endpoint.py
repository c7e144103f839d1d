"""An HTTP endpoint for Prometheus and for probes: GET /metrics and GET /healthz, in a thread, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from importlib.metadata import version

from anyio import CapacityLimiter, to_thread
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from workers.errors import SettingsError
from workers.web.server import Bounds, bound_sockets, make_server

#: Whoever scrapes more often at once waits.
THREADS = 4


def endpoint(registry: CollectorRegistry, is_healthy: Callable[[], bool]) -> Starlette:
    """Return the application.

    Args:
        is_healthy: /healthz answers 200 where it says so, else 503.
    """
    limiter = CapacityLimiter(THREADS)

    async def metrics(request: Request) -> Response:
        def collected() -> Response:
            encode, media_type = choose_encoder(request.headers.get("accept", ""))
            names = request.query_params.getlist("name[]")
            wanted = registry.restricted_registry(names) if names else registry
            return Response(encode(wanted), headers={"Content-Type": media_type})

        return await to_thread.run_sync(collected, limiter=limiter)

    async def health(_: Request) -> Response:
        return PlainTextResponse("OK\n") if is_healthy() else PlainTextResponse("Service Unavailable\n", 503)

    routes = [Route("/metrics", metrics), Route("/healthz", health)]
    app = Starlette(routes=routes, middleware=[Middleware(GZipMiddleware)])
    app.router.redirect_slashes = False
    return app


def serve(app: Starlette, host: str, port: int) -> None:
    """Serve in a daemon thread, until the process ends.

    Raises:
        SettingsError: the address cannot be listened on.
    """
    try:
        sockets = bound_sockets(host, port)
    except (OSError, OverflowError) as error:
        raise SettingsError(
            f"metrics cannot be served on {host}:{port} ({error}): set APF_METRICS_HOST to an address of this machine "
            "and APF_METRICS_PORT to a port that is free, another one for each process"
        ) from error
    server = make_server(app, Bounds())
    threading.Thread(target=server.run, args=(sockets,), name="metrics", daemon=True).start()


class BuildInfo(Collector):
    """Which version runs here."""

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("apf_build_info", "Which version of APF runs here; always 1.", labels=["version"])
        info.add_metric([version("apf-protect")], 1)
        yield info
