"""The one Celery task: a thin view of `workers.run`."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from typing import Any

from celery import shared_task
from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import task_failure

from workers.app import TASK
from workers.errors import JobError, StoreError, WorkerError
from workers.job import ShardJob
from workers.run import ShardIncomplete, report_lost_shard, run_shard
from workers.settings import load_settings

logger = logging.getLogger(__name__)

#: With the back-off below: about twenty minutes of a store that is down.
MAX_TRIES = 8
LONGEST_WAIT_S = 300


@task_failure.connect
def report_given_up(
    sender: Any = None, exception: BaseException | None = None, args: Sequence[Any] = (), **_: object
) -> None:
    """Report a shard that Celery gives up, so that none stays pending for ever.

    The signal comes in the worker's parent where the child died or was killed for its time, else in the child.
    """
    if sender is None or sender.name != TASK or exception is None or isinstance(exception, JobError):
        return  # a message that names no shard has none to report
    logger.error("shard %s is given up: %s", args, exception)
    try:
        report_lost_shard(ShardJob.decode(args[0]), load_settings(), _reason(exception))
    except WorkerError as error:
        # Nobody can learn of it from the ledger: a command that runs this worker inside must not wait for ever.
        sender.app.apf_unreported = str(error)
        raise


@shared_task(bind=True, name=TASK)
def protect_shard(self: Any, message: dict[str, object]) -> dict[str, object] | None:
    """Protect the shard that the message names; a store that is down is waited for, with back-off."""
    job = ShardJob.decode(message)
    try:
        totals = run_shard(job, load_settings(), last_try=self.request.retries >= MAX_TRIES)
    except (ShardIncomplete, StoreError) as error:
        if isinstance(error, StoreError) and not error.transient:
            raise
        raise self.retry(exc=error, countdown=_back_off_s(self.request.retries), max_retries=MAX_TRIES) from error
    return totals.model_dump() if totals else None


def _back_off_s(tries: int) -> float:
    return random.uniform(0.5, 1) * min(LONGEST_WAIT_S, 5.0 * 2.0**tries)  # noqa: S311  jitter, no secret


def _reason(error: BaseException) -> str:
    if isinstance(error, SoftTimeLimitExceeded) or "TimeLimitExceeded" in type(error).__name__:
        return "the shard took longer than APF_SHARD_SOFT_LIMIT_S: raise it, or lower APF_SHARD_MEGAPIXELS"
    if "WorkerLost" in type(error).__name__:
        return "the worker died three times in this shard, most likely out of memory: lower APF_PHOTO_BUFFER_BYTES"
    return f"the shard was given up: {error}"
