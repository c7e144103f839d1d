"""A Celery worker inside this process, on an in-process broker: same task, same ledger, same code path.

The task is loaded by name, so that importing this module loads neither the filter nor torch.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from celery import Celery

from workers.errors import WorkerError

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 60


@contextmanager
def embedded_worker(app: Celery) -> Iterator[Callable[[], None]]:
    """Run a worker for `app`'s queues in a thread until the block ends; the running shard is finished first.

    Yields a check to be called now and then, which raises WorkerError when the worker has died.

    Raises:
        WorkerError: the worker did not start.
    """
    # Tasks run in the worker's thread, their retries in its timer's, where no app is the current one: a retry would be
    # sent to Celery's default broker, and be lost.
    app.set_default()
    ready = threading.Event()
    worker = app.WorkController(
        pool="solo",
        concurrency=1,
        hostname="embedded",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        ready_callback=lambda consumer: ready.set(),
    )
    thread = threading.Thread(target=worker.start, name="embedded-worker", daemon=True)
    thread.start()
    if not ready.wait(START_TIMEOUT_S):
        raise WorkerError(f"the worker inside this command did not start within {START_TIMEOUT_S} s: try again")

    def check() -> None:
        if not thread.is_alive():
            raise WorkerError("the worker inside this command died: `apf resume` goes on with the batch")
        if unreported := getattr(app, "apf_unreported", None):
            raise WorkerError(f"a shard could not be reported: {unreported}; mend it, then `apf resume` the batch")

    try:
        yield check
    finally:
        worker.stop()
        thread.join()
