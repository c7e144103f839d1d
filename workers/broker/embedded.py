"""Run a Celery worker inside this process, on an in-process broker: same task, same ledger, same code path.

The task is loaded by name, so that importing this module loads neither the filter nor torch.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from celery import Celery
from celery.signals import task_postrun

from workers.broker.client import queue_snapshot
from workers.errors import WorkerError

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 60


class EmbeddedWorker:
    """A worker that runs in a thread of this process."""

    def __init__(self, app: Celery, thread: threading.Thread) -> None:
        self._app = app
        self._thread = thread
        self._idle = threading.Event()

    def check(self) -> None:
        """To be called now and then; raises WorkerError when the worker has died."""
        if not self._thread.is_alive():
            raise WorkerError("the worker inside this command died: `apf resume` goes on with the batch")
        if unreported := getattr(self._app, "apf_unreported", None):
            raise WorkerError(f"a shard could not be reported: {unreported}; mend it, then `apf resume` the batch")

    def wait(self, timeout_s: float) -> None:
        """Until it has done all that it was given, or that long."""
        self._idle.wait(timeout_s)
        self._idle.clear()

    def note_end(self, **_: object) -> None:
        """Handle the end of a task, for Celery."""
        if not any(queue_snapshot(self._app).queued.values()):
            self._idle.set()


@contextmanager
def embedded_worker(app: Celery) -> Iterator[EmbeddedWorker]:
    """Run a worker for `app`'s queues in a thread until the block ends; the running shard is finished first.

    Raises:
        WorkerError: the worker did not start.
    """
    # Tasks run in the worker's thread, their retries in its timer's, where no app is the current one: a retry would be
    # sent to Celery's default broker, and be lost.
    app.set_default()
    ready = threading.Event()
    controller = app.WorkController(
        pool="solo",
        concurrency=1,
        hostname="embedded",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        ready_callback=lambda consumer: ready.set(),
    )
    thread = threading.Thread(target=controller.start, name="embedded-worker", daemon=True)
    worker = EmbeddedWorker(app, thread)
    task_postrun.connect(worker.note_end)
    thread.start()
    if not ready.wait(START_TIMEOUT_S):
        raise WorkerError(f"the worker inside this command did not start within {START_TIMEOUT_S} s: try again")
    try:
        yield worker
    finally:
        task_postrun.disconnect(worker.note_end)
        controller.stop()
        thread.join()
