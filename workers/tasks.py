"""The Celery tasks: thin views of `workers.run` and `workers.reconcile`."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Sequence
from typing import Any

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import shared_task
from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import task_failure, worker_shutdown
from celery.worker import state

from workers.app import RECONCILE, TASK
from workers.attempts import give_back
from workers.errors import JobError, StoreError, WorkerError
from workers.job import ShardJob
from workers.logs import install as install_masks
from workers.reconcile import reconcile
from workers.registry import roots
from workers.run import ShardIncomplete, ShardResumed, opened, report_lost_shard, run_shard
from workers.sending import Sender, waiting
from workers.settings import load_settings

logger = logging.getLogger(__name__)
install_masks()

#: With the back-off below: about twenty minutes of a store that is down.
MAX_WAITS = 8
LONGEST_WAIT_S = 300


#: Celery tells of a hard time limit twice.
_sent_again: deque[str] = deque(maxlen=1000)


@task_failure.connect
def after_failure(
    sender: Any = None,
    task_id: str = "",
    exception: BaseException | None = None,
    args: Sequence[Any] = (),
    **_: object,
) -> None:
    """A shard that killed its worker is sent again: the ledger counts the deaths. Any other failure is reported.

    The signal comes in the worker's parent where the child died or was killed for its time, else in the child.
    """
    if sender is None or sender.name != TASK or exception is None or isinstance(exception, JobError):
        return
    try:
        job = ShardJob.decode(args[0])
    except (JobError, LookupError, TypeError):
        return  # a message that names no shard has none to report
    if isinstance(exception, (WorkerLostError, TimeLimitExceeded)):
        if task_id in _sent_again:
            return
        _sent_again.append(task_id)
        logger.error("shard %s cost its worker and is sent again: %s", job.shard, type(exception).__name__)
        Sender(sender.app)(job)
        return
    logger.error("shard %s is given up: %s", job.shard, exception)
    try:
        report_lost_shard(job, load_settings(), f"the shard was given up: {exception}")
    except WorkerError as error:
        # Nobody can learn of it from the ledger: a command that runs this worker inside must not wait for ever.
        sender.app.apf_unreported = str(error)
        raise


@worker_shutdown.connect
def give_all_back(**_: object) -> None:
    """A worker that is asked to stop gives its shard back; that is no death of the shard's."""
    for request in list(state.active_requests):
        try:
            job = ShardJob.decode(request.args[0])
            ledger, batch_id = opened(job, load_settings())
            give_back(ledger, batch_id, job.shard)
        except (WorkerError, LookupError, TypeError) as error:
            logger.warning("a shard could not be given back, and counts as a death: %s", error)


@shared_task(bind=True, name=TASK)
def protect_shard(self: Any, message: dict[str, object]) -> dict[str, object] | None:
    """Protect the shard that the message names; a store that is down is waited for, with back-off."""
    job = ShardJob.decode(message)
    try:
        totals = run_shard(job, load_settings(), last_try=job.waits >= MAX_WAITS)
    except (ShardIncomplete, StoreError) as error:
        if (isinstance(error, StoreError) and not error.transient) or job.waits >= MAX_WAITS:
            raise
        raise self.retry(
            args=[job.waited().encode()], exc=error, countdown=_back_off_s(job.waits), max_retries=None
        ) from error
    except (SoftTimeLimitExceeded, ShardResumed) as error:
        raise self.retry(exc=error, countdown=1, max_retries=None) from error
    return totals.model_dump() if totals else None


@shared_task(bind=True, name=RECONCILE)
def reconcile_all(self: Any) -> dict[str, int]:
    """Send again what nobody is at, in every open batch that the settings let find."""
    settings = load_settings()
    return reconcile(roots(settings), Sender(self.app), settings, lambda: waiting(self.app))


def _back_off_s(waits: int) -> float:
    return random.uniform(0.5, 1) * min(LONGEST_WAIT_S, 5.0 * 2.0**waits)  # noqa: S311  jitter, no secret
