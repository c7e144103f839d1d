"""`apf exporter`."""

from __future__ import annotations

import logging
import signal
import threading
from typing import Annotated

import typer

from producer.cli.console import errors_end_the_command, fail
from workers.broker.app import make_app
from workers.config.settings import load_settings
from workers.ledger.open_batches import check_registry
from workers.telemetry.log_format import configure

log = logging.getLogger(__name__)

#: Beside a worker's, which many give the port that is usual for Prometheus exporters of this kind.
PORT = 9465


@errors_end_the_command
def exporter_command(
    host: Annotated[str | None, typer.Option(help="Address to answer on; default: APF_METRICS_HOST.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to answer on.")] = PORT,
) -> None:
    """Serve what waits and how far open batches are, for Prometheus (GET /metrics); one is enough. Ends on SIGTERM."""
    settings = load_settings()
    if not settings.broker_url:
        fail("without a queue there is nothing to export: set APF_BROKER_URL")
    check_registry(settings)
    from prometheus_client import CollectorRegistry  # noqa: PLC0415  other commands do without

    from producer.exporter.server import exporter  # noqa: PLC0415
    from workers.telemetry.http_endpoint import BuildInfo, endpoint, serve  # noqa: PLC0415

    configure()
    log.setLevel(logging.INFO)
    registry = CollectorRegistry()
    registry.register(BuildInfo())
    registry.register(exporter(make_app(settings), settings))
    address = host or settings.metrics_host
    stopped = _stopped_by_signals()  # before it answers, as whoever sees it answer may end it
    serve(endpoint(registry, lambda: True), address, port)
    log.info("metrics of the queue and of open batches: http://%s:%d/metrics", address, port)
    stopped.wait()


def _stopped_by_signals() -> threading.Event:
    # A container's first process gets no signal that it does not handle.
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    return stopped
