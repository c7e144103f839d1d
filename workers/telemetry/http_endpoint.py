"""An HTTP endpoint for Prometheus and for probes: GET /metrics and GET /healthz, in a thread, and nothing else."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from typing import Any

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from waitress import create_server

from workers.errors import SettingsError

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

#: Whoever scrapes more often at once waits.
THREADS = 4


def endpoint(registry: CollectorRegistry, is_healthy: Callable[[], bool]) -> Wsgi:
    """Return the WSGI application.

    Args:
        is_healthy: /healthz answers 200 where it says so, else 503.
    """
    metrics = make_wsgi_app(registry)

    def route(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if method not in ("GET", "HEAD"):
            return _plain(start_response, "405 Method Not Allowed", ("Allow", "GET, HEAD"))
        if path == "/metrics":
            answer: Iterable[bytes] = metrics(environ, start_response)
            return answer
        if path == "/healthz":
            return _plain(start_response, "200 OK" if is_healthy() else "503 Service Unavailable")
        return _plain(start_response, "404 Not Found")

    return route


def serve(app: Wsgi, host: str, port: int) -> None:
    """Serve in a daemon thread, until the process ends.

    Raises:
        SettingsError: the address cannot be listened on.
    """
    # What it tells of every start, and of each request that it queued, is no news.
    logging.getLogger("waitress").setLevel(logging.ERROR)
    try:
        server = create_server(app, host=host, port=port, threads=THREADS, ident=None)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"metrics cannot be served on {host}:{port} ({error}): set APF_METRICS_HOST to an address of this machine "
            "and APF_METRICS_PORT to a port that is free, another one for each process"
        ) from error
    threading.Thread(target=server.run, name="metrics", daemon=True).start()


class BuildInfo(Collector):
    """Which version runs here."""

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("apf_build_info", "Which version of APF runs here; always 1.", labels=["version"])
        info.add_metric([version("apf-protect")], 1)
        yield info


def _plain(start_response: Callable[..., Any], status: str, *headers: tuple[str, str]) -> list[bytes]:
    body = status.partition(" ")[2].encode() + b"\n"
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body))), *headers])
    return [body]
