"""The Celery tasks: thin views of `workers.run` and `workers.reconcile`."""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import Celery, shared_task
from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import task_failure, worker_shutdown
from celery.worker import state

from apf.errors import OtherVersion
from workers import (  # noqa: F401  the latter two for what they do on Celery's signals
    log_format,
    metrics,
    metrics_server,
)
from workers.allowed import check_allowed
from workers.app import CALLBACK, PLAN, RECONCILE, RUN_SCHEDULES, TASK
from workers.attempts import give_back
from workers.callback import tell_of_end
from workers.context import at
from workers.delivery import deliver
from workers.errors import JobError, NewerRecord, StoreError, WorkerError
from workers.job import BULK, ShardJob
from workers.ledger import open_batch
from workers.logs import install as install_masks
from workers.planning import Taken
from workers.reconcile import plan_and_send, reconcile
from workers.registry import roots
from workers.run import ShardIncomplete, ShardResumed, check_batch, opened, report_lost_shard, run_shard
from workers.schedules.firing import run_due
from workers.sending import Sender, choose_queue, is_overtaken, waiting
from workers.settings import load_settings
from workers.shard import ShardOvertaken

logger = logging.getLogger(__name__)
install_masks()

#: With the back-off below: about twenty minutes of a store that is down.
MAX_WAITS = 8
LONGEST_WAIT_S = 300
#: A bulk shard asks so often whether an upload waits.
LOOK_FOR_UPLOADS_S = 1.0
REDIS_PAUSE_S = 30.0


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
    if isinstance(exception, (NewerRecord, OtherVersion)):
        # Reconciling sends it again, until it comes to a worker that can.
        logger.error("shard %s is left to workers of another version: %s", job.shard, exception)
        return
    if isinstance(exception, (WorkerLostError, TimeLimitExceeded)):
        if task_id in _sent_again:
            return
        _sent_again.append(task_id)
        died = isinstance(exception, WorkerLostError)
        metrics.add("apf_retries_total", reason="worker_lost" if died else "time_limit")
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
    tell_of_end(job.batch_url, job.shard, load_settings(), Sender(sender.app).callback)


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
    with at(worker=self.request.hostname, task=self.request.id):
        return _protect(self, job)


def _protect(self: Any, job: ShardJob) -> dict[str, object] | None:
    try:
        totals = run_shard(job, load_settings(), last_try=job.waits >= MAX_WAITS, overtaken=_overtaken(self.app, job))
    except (ShardIncomplete, StoreError) as error:
        if (isinstance(error, StoreError) and not error.transient) or job.waits >= MAX_WAITS:
            raise
        metrics.add("apf_retries_total", reason="store_down")
        raise self.retry(
            args=[job.waited().encode()], exc=error, countdown=_back_off_s(job.waits), max_retries=None
        ) from error
    except (SoftTimeLimitExceeded, ShardResumed) as error:
        metrics.add("apf_retries_total", reason="resumed" if isinstance(error, ShardResumed) else "time_limit")
        raise self.retry(exc=error, countdown=1, max_retries=None) from error
    except ShardOvertaken as error:
        metrics.add("apf_retries_total", reason="overtaken")
        raise self.retry(exc=error, countdown=0, max_retries=None) from error
    # Also where there was nothing to do: whoever reported the shard may have died before this.
    tell_of_end(job.batch_url, job.shard, load_settings(), Sender(self.app).callback)
    return totals.model_dump() if totals else None


@shared_task(bind=True, name=PLAN)
def plan_batch(self: Any, batch_url: str) -> int:
    """Plan a batch, or go on with its planning, and send its shards; returns how many there are.

    Where its time runs out, or the store is down, `reconcile_all` goes on after the planner's silence.
    """
    settings = load_settings()
    check_allowed(batch_url, settings.allowed_for_batches, what="batch")
    ledger, batch_id = open_batch(batch_url, s3=settings.s3)
    check_batch(ledger, ledger.read_batch(batch_id), settings)
    try:
        shards = plan_and_send(ledger, batch_id, Sender(self.app), settings).shards
    except Taken as error:
        logger.info("not planned here: %s", error)
        return ledger.read_batch(batch_id).shards
    # A source without photos is done by now.
    tell_of_end(batch_url, max(0, shards - 1), settings, Sender(self.app).callback)
    return shards


@shared_task(bind=True, name=RECONCILE)
def reconcile_all(self: Any) -> dict[str, int]:
    """Send again what nobody is at, in every open batch that the settings let find."""
    settings = load_settings()
    sender = Sender(self.app)
    sent = reconcile(roots(settings), sender, settings, lambda: waiting(self.app), sender.callback)
    metrics.add("apf_reconciled_shards_total", sum(sent.values()))
    metrics.put("apf_last_reconcile_timestamp_seconds", time.time())
    return sent


@shared_task(bind=True, name=CALLBACK)
def deliver_callback(self: Any, batch_url: str) -> str:
    """Post the callback of a batch that is done; a receiver that does not take it is tried again, with back-off."""
    delivery = deliver(batch_url, load_settings())
    metrics.add("apf_callbacks_total", result=delivery.result)
    if delivery.again_s is not None:
        raise self.retry(countdown=delivery.again_s, max_retries=None)
    return delivery.result


@shared_task(bind=True, name=RUN_SCHEDULES)
def run_schedules(self: Any) -> dict[str, list[str]]:
    """Fire the schedules that are due; returns their new batches."""
    settings = load_settings()
    if not roots(settings):
        return {}
    fired = run_due(settings, Sender(self.app).plan, choose_queue=partial(choose_queue, self.app))
    return {one.schedule.name: [part.batch for part in one.run.parts] for one in fired}


def _overtaken(app: Celery, job: ShardJob) -> Callable[[], bool]:
    """Whether a bulk shard should give way to an upload; Redis is asked now and then."""
    last = time.monotonic()

    def ask() -> bool:
        nonlocal last
        if not job.queue.startswith(BULK) or time.monotonic() - last < LOOK_FOR_UPLOADS_S:
            return False
        asked = time.monotonic()
        overtaken = is_overtaken(app)
        last = time.monotonic()
        if last - asked > LOOK_FOR_UPLOADS_S:  # Redis is down: the shard can do without it
            last += REDIS_PAUSE_S
        return overtaken

    return ask


def _back_off_s(waits: int) -> float:
    return random.uniform(0.5, 1) * min(LONGEST_WAIT_S, 5.0 * 2.0**waits)  # noqa: S311  jitter, no secret
