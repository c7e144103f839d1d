"""Serve a worker's metrics on APF_METRICS_PORT: its parent, for all its processes.

Processes count in files below PROMETHEUS_MULTIPROC_DIR. Celery's signals start all this, so that it is the same for
`apf worker` and for `celery worker`; a worker inside the `apf` command sends none of them, and counts nothing.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from billiard.process import current_process
from celery.signals import celeryd_init, worker_process_init, worker_ready
from celery.worker import state

from workers.config.settings import load_settings
from workers.core.task_names import TASK
from workers.errors import SettingsError
from workers.telemetry import metrics

if TYPE_CHECKING:
    from prometheus_client.core import Metric

FOLDER = "PROMETHEUS_MULTIPROC_DIR"

_ready = threading.Event()
_pool: list[Any] = []


@celeryd_init.connect
def start(**_: object) -> None:
    """In the parent, before it has children: a fresh folder for their files, and the endpoint."""
    settings = load_settings()
    if not settings.metrics_port:
        return
    # Below the user's own folder, where one is set: files of another worker, or an earlier one, would be counted, too.
    os.environ[FOLDER] = folder = tempfile.mkdtemp(prefix="apf-metrics-", dir=os.environ.get(FOLDER))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    metrics.start("parent")
    try:
        _serve(folder, settings.metrics_host, settings.metrics_port)
    except SettingsError as error:
        print(f"apf: {error}", file=sys.stderr)
        raise SystemExit(2) from None


@worker_process_init.connect
def start_child(**_: object) -> None:
    """In each child: it goes on with the files of the one that it replaces."""
    slot = getattr(current_process(), "index", None)  # None: a pool without processes, whose tasks run in the parent
    if slot is not None and load_settings().metrics_port and FOLDER in os.environ:
        metrics.start(f"child{slot}")


@worker_ready.connect
def is_ready(sender: Any = None, **_: object) -> None:
    _pool[:] = [sender.pool]
    _ready.set()


def _serve(folder: str, host: str, port: int) -> None:
    from prometheus_client import CollectorRegistry  # noqa: PLC0415  a worker without metrics does without
    from prometheus_client.multiprocess import MultiProcessCollector  # noqa: PLC0415

    from workers.telemetry.http_endpoint import BuildInfo, endpoint, serve  # noqa: PLC0415

    class Parent(BuildInfo):
        """What the parent knows by itself: it holds for this moment, whatever children died."""

        def collect(self) -> Iterator[Metric]:
            yield from super().collect()
            yield from _gauges()

    registry = CollectorRegistry()
    MultiProcessCollector(registry, folder)  # type: ignore[no-untyped-call]
    registry.register(Parent())
    serve(endpoint(registry, _ready.is_set), host, port)


def _gauges() -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415

    running = sum(request.name == TASK for request in _active())
    yield GaugeMetricFamily("apf_shards_in_progress", "Shards that this worker runs now.", value=running)
    processes = sum(len(pool.info.get("processes", (0,))) for pool in _pool)
    yield GaugeMetricFamily("apf_worker_processes", "Processes that run this worker's shards.", value=processes)


def _active() -> list[Any]:
    while True:
        try:
            return list(state.active_requests)
        except RuntimeError:  # changed meanwhile, by the worker's own thread
            continue
