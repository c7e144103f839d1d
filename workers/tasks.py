"""The Celery tasks: thin wrappers of `workers.execution.run_shard` and `workers.batches.rescue`."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import Celery, shared_task
from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import celeryd_after_setup, task_failure, task_postrun, task_prerun, worker_shutdown
from celery.worker import state

from apf.errors import OtherVersion
from workers.access.batch_records import check_batch
from workers.batches.plan import PlannerConflict, note_planning_error
from workers.batches.rescue import plan_and_send, reconcile
from workers.broker import heartbeat  # noqa: F401  all but metrics for what they do on Celery's signals
from workers.broker.client import Broker, should_yield
from workers.broker.fairness import BulkCredit
from workers.broker.queues import FairQueueOrder, all_queues, queue_of
from workers.callbacks.deliver import deliver
from workers.config.access import check_allowed
from workers.config.settings import load_settings
from workers.core.backoff import backoff_s
from workers.core.log_context import log_context
from workers.core.records import BULK, INTERACTIVE, Batch, ShardJob
from workers.core.task_names import CALLBACK, PLAN, RECONCILE, RUN_SCHEDULES, TASK
from workers.deletion.retention import prune_ended
from workers.errors import JobError, NewerRecord, StoreError, WorkerError
from workers.execution import process_limits  # noqa: F401  all but metrics for what they do on Celery's signals
from workers.execution.run_shard import (
    ShardIncomplete,
    ShardResumed,
    ShardTimedOut,
    opened,
    report_lost_shard,
    run_shard,
)
from workers.execution.shard_pipeline import ShardPreempted
from workers.ledger.batch_ledger import open_batch
from workers.ledger.leases import release_leases
from workers.ledger.lifecycle import after_shard
from workers.ledger.open_batches import roots
from workers.schedules.fire import run_due
from workers.telemetry import log_format, metrics, worker_exporter  # noqa: F401  all but metrics for what they do on Celery's signals
from workers.telemetry.redaction import install as install_masks

logger = logging.getLogger(__name__)
install_masks()

#: With the back-off below: some twenty minutes of a store that is down.
MAX_WAITS = 10
LONGEST_WAIT_S = 300
#: A batch is planned for so long at a time.
PLAN_S = 10.0
#: Names a worker's queues to its children, which are processes of their own.
QUEUES = "_APF_WORKER_QUEUES"
UPLOADS = frozenset(all_queues([INTERACTIVE])[1:])
#: A bulk shard asks no more often than that whether an upload waits, and only between two photos.
LOOK_FOR_UPLOADS_S = 0.25
#: A Redis that takes so long to tell is down, and is asked no more for the pause.
REDIS_SLOW_S, REDIS_PAUSE_S = 1.0, 30.0


#: This process's debt to bulk work that waits for uploads.
_owed = BulkCredit()
#: Celery tells of a hard time limit twice.
_sent_again: deque[str] = deque(maxlen=1000)


@celeryd_after_setup.connect
def name_queues(instance: Any = None, **_: object) -> None:
    """In the worker's parent, before it has children and asks for messages."""
    os.environ[QUEUES] = ",".join(instance.app.amqp.queues.consume_from)
    FairQueueOrder.share = load_settings().bulk_share
    FairQueueOrder.in_hand = staticmethod(lambda: [_queue(request) for request in list(state.reserved_requests)])


@task_prerun.connect
def begin(task: Any = None, **_: object) -> None:
    """In the process that runs it."""
    _owed.share = load_settings().bulk_share
    _owed.tick([_queue(task.request)], begins=_queue(task.request))


@task_postrun.connect
def end(**_: object) -> None:
    """In the process that ran it."""
    _owed.tick([])


def _queue(request: Any) -> str:
    return str((request.delivery_info or {}).get("routing_key", ""))


@task_failure.connect
def after_failure(
    sender: Any = None,
    task_id: str = "",
    exception: BaseException | None = None,
    args: Sequence[Any] = (),
    **_: object,
) -> None:
    """Send a shard that killed its worker again: the ledger counts the deaths. Any other failure is reported.

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
        Broker(sender.app).send(job)
        return
    logger.error("shard %s is given up: %s", job.shard, exception)
    try:
        report_lost_shard(job, load_settings(), exception)
    except WorkerError as error:
        # The ledger does not say so: a command that runs this worker inside must not wait for ever.
        sender.app.apf_unreported = str(error)
        raise
    _after(sender.app, job)


@worker_shutdown.connect
def give_all_back(**_: object) -> None:
    """Give the shards of a worker that is asked to stop back; that is no death of the shard's."""
    for request in list(state.active_requests):
        try:
            job = ShardJob.decode(request.args[0])
            ledger, batch_id = opened(job, load_settings())
            release_leases(ledger, batch_id, job.shard)
        except (WorkerError, LookupError, TypeError) as error:
            logger.warning("a shard could not be given back, and counts as a death: %s", error)


# Celery's own count of tries (`max_retries`, 3 by default, also where `retry` is given None) is off: giving way and
# resuming are no tries, waits are counted in the message, deaths and time-outs in the ledger.
@shared_task(bind=True, name=TASK, max_retries=None)
def protect_shard(self: Any, message: dict[str, object]) -> dict[str, object] | None:
    """Protect the shard that the message names; a store that is down is waited for, with back-off."""
    job = ShardJob.decode(message)
    with log_context(worker=self.request.hostname, task=self.request.id):
        return _protect(self, job)


def _protect(self: Any, job: ShardJob) -> dict[str, object] | None:
    try:
        run = run_shard(
            job, load_settings(), last_try=job.waits >= MAX_WAITS, overtaken=_overtaken(self.app, job.queue)
        )
    except (ShardTimedOut, ShardResumed) as error:
        metrics.add("apf_retries_total", reason="resumed" if isinstance(error, ShardResumed) else "time_limit")
        raise self.retry(exc=error, countdown=0) from error
    except (ShardIncomplete, StoreError, SoftTimeLimitExceeded) as error:
        # Out of time with no death in the ledger to count: the store hardly answers.
        if (isinstance(error, StoreError) and not error.transient) or job.waits >= MAX_WAITS:
            raise
        metrics.add("apf_retries_total", reason="store_down")
        raise self.retry(args=[job.waited().encode()], exc=error, countdown=_back_off_s(job.waits)) from error
    except ShardPreempted as error:
        metrics.add("apf_retries_total", reason="overtaken")
        raise self.retry(exc=error, countdown=0) from error
    # Also where there was nothing to do: the worker that reported the shard may have died before this.
    _after(self.app, job, run.batch if run else None)
    return run.totals.model_dump() if run else None


def _after(app: Celery, job: ShardJob, batch: Batch | None = None) -> None:
    """See to what follows from a shard's end; `batch` is its record, where the report was written just now."""
    settings = load_settings()
    try:
        ledger, batch_id = opened(job, settings)
        reported = batch is not None
        batch = batch or ledger.read_batch(batch_id)
    except WorkerError as error:
        logger.warning("batch %s may have ended, and is closed or called back later: %s", job.batch_url, error)
        return
    after_shard(ledger, batch, job.shard, settings, Broker(app).callback, reported=reported)


@shared_task(bind=True, name=PLAN)
def plan_batch(self: Any, batch_url: str) -> int:
    """Plan a batch, or go on with its planning, and send its shards; returns how many there are.

    It plans for some seconds, or until an upload waits, and goes on behind the shards that it has sent. Where a store
    is down, `reconcile_all` has it gone on with after the planner's silence.
    """
    settings, broker = load_settings(), Broker(self.app)
    check_allowed(batch_url, settings.allowed_for_batches, what="batch")
    ledger, batch_id = open_batch(batch_url, s3=settings.s3)
    before = ledger.read_batch(batch_id)
    try:
        check_batch(ledger, before, settings)
        batch = plan_and_send(ledger, batch_id, broker, settings, _enough(self.app))
    except PlannerConflict as error:
        logger.info("not planned here: %s", error)
        return before.shards
    except StoreError as error:
        if not error.transient:  # kept in the batch's note: nothing else would say why it stands still
            note_planning_error(ledger, batch_id, str(error))
        raise
    if not batch.planned and not ledger.stopped(batch_id):
        broker.plan(batch_url, queue_of(batch))
    # A source without photos is done by now.
    after_shard(ledger, batch, max(0, batch.shards - 1), settings, broker.callback)
    return batch.shards


@shared_task(bind=True, name=RECONCILE)
def reconcile_all(self: Any) -> dict[str, int]:
    """Requeue orphaned shards in every open batch that the settings let find; delete batches that ended long ago."""
    settings = load_settings()
    sent = reconcile(roots(settings), Broker(self.app), settings)
    prune_ended(roots(settings), settings)
    metrics.add("apf_reconciled_shards_total", sum(sent.values()))
    metrics.put("apf_last_reconcile_timestamp_seconds", time.time())
    return sent


# Tries are counted in the callback's record (`workers.callbacks.retry_policy`), and not by Celery.
@shared_task(bind=True, name=CALLBACK, max_retries=None)
def deliver_callback(self: Any, batch_url: str) -> str:
    """Post the callback of a batch that is done; a receiver that does not take it is tried again, with back-off."""
    delivery = deliver(batch_url, load_settings())
    metrics.add("apf_callbacks_total", result=delivery.result)
    if delivery.again_s is not None:
        raise self.retry(countdown=delivery.again_s)
    return delivery.result


@shared_task(bind=True, name=RUN_SCHEDULES)
def run_schedules(self: Any) -> dict[str, list[str]]:
    """Fire the schedules that are due; returns their new batches."""
    settings = load_settings()
    if not roots(settings):
        return {}
    fired = run_due(settings, Broker(self.app))
    return {one.schedule.name: [part.batch for part in one.run.parts] for one in fired}


def _overtaken(app: Celery, queue: str) -> Callable[[], bool]:
    """Return whether what came from this queue should give way to an upload that this worker can take; asked now and
    then.
    """
    last = time.monotonic()
    mine = [name for name in os.environ.get(QUEUES, "").split(",") if name in UPLOADS]

    def ask() -> bool:
        nonlocal last
        if not mine or not queue.startswith(BULK) or time.monotonic() - last < LOOK_FOR_UPLOADS_S:
            return False
        if _owed.now([queue]) > 0:
            return False
        asked = time.monotonic()
        overtaken = should_yield(app, mine)
        last = time.monotonic()
        if last - asked > REDIS_SLOW_S:  # the shard can do without it
            last += REDIS_PAUSE_S
        return overtaken

    return ask


def _enough(app: Celery) -> Callable[[], bool]:
    overtaken, started = _overtaken(app, BULK), time.monotonic()
    return lambda: time.monotonic() - started > PLAN_S or overtaken()


def _back_off_s(waits: int) -> float:
    # Redis hands a message that waits for longer than the visibility timeout to a second worker.
    longest_s = min(LONGEST_WAIT_S, load_settings().visibility_timeout_s / 2)
    return backoff_s(waits + 1, first_s=5.0, longest_s=longest_s)
