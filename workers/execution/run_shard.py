"""Run a shard's message to its report: everything the task does, callable without Celery."""

from __future__ import annotations

import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from itertools import count

from celery.exceptions import SoftTimeLimitExceeded

from apf.errors import ApfError, DetectorUnreachable, OtherVersion
from apf.recipe import Recipe
from apf.runtime.stage_clock import StageClock
from workers.access.batch_records import check_batch
from workers.access.output_claims import delete_output, sources_in
from workers.config.access import check_allowed
from workers.config.settings import Settings
from workers.core import heap
from workers.core.clock import now
from workers.core.failure_codes import FailureCode, code_of
from workers.core.log_context import log_context
from workers.core.records import Batch, Lane, Outcome, PhotoRef, PhotoReport, ShardJob, ShardReport, Totals
from workers.errors import LedgerError, NotAllowed, StoreError, TornPlan
from workers.execution.engine import Engine
from workers.execution.isolation import SPLIT_AFTER, OneByOneRunner
from workers.execution.load_engine import load_engine
from workers.execution.shard_pipeline import DESTINATION_GONE, ShardPreempted, ShardRunner, already_done, in_order
from workers.ledger.batch_ledger import Ledger, is_single, open_batch
from workers.ledger.checkpoints import delete_checkpoint, read_checkpoint, write_checkpoint
from workers.ledger.forgotten import forgotten_among
from workers.ledger.leases import ShardLease, attempts_if_open, crash_counts, renewed
from workers.store import RESERVED, Store, open_store
from workers.store.listing import Absent
from workers.telemetry import metrics, tracing
from workers.telemetry.redaction import keys_hidden

#: A running shard asks whether its batch was stopped at each so many-th renewal of its try.
STOP_EVERY = 2


class ShardStopped(Exception):
    """Raised inside a shard whose batch was cancelled or paused; its remaining photos stay pending."""


class ShardResumed(Exception):
    """Raised when the batch was resumed before the shard had stopped: run the shard again."""


class ShardTimedOut(SoftTimeLimitExceeded):
    """Raised when a shard ran out of time, and the ledger counts it as a death."""


class ShardIncomplete(Exception):
    """Raised when photos failed for reasons that pass (a store that is down): a later run may finish the shard."""


@dataclass(frozen=True)
class ShardRun:
    """A shard that was run to its report."""

    #: The record as it was right before the report was written.
    batch: Batch
    totals: Totals


def run_shard(
    job: ShardJob,
    settings: Settings,
    *,
    load: Callable[[Recipe, Settings, bool], Engine] = load_engine,
    last_try: bool = True,
    overtaken: Callable[[], bool] = lambda: False,
) -> ShardRun | None:
    """Protect a shard and write its report; None where there was nothing to do (reported already, or stopped).

    A shard whose workers died twice is run photo by photo.

    Args:
        load: gives the engine for a recipe, and for gradient files where the third is true.
        last_try: report photos that failed for passing reasons, instead of raising.
        overtaken: as in `ShardRunner`.

    Raises:
        ShardPreempted: the rest of it should be sent again, for what is more urgent.
        ShardIncomplete: some photos failed for reasons that pass, and this was not the last try.
        ShardResumed: the batch was stopped and resumed meanwhile: run it again.
        OtherVersion: on a queue, where a worker of the recipe's version may come: leave the shard to it.
        NotAllowed: the message names a place outside `settings.allowed_for_batches`.
        LedgerError: the batch or the plan cannot be read.
        StoreError: the ledger cannot be read or written.
    """
    ledger, batch_id = opened(job, settings)
    batch = ledger.read_batch(batch_id)
    if (attempts := attempts_if_open(ledger, batch, job.shard)) is None:
        return None
    refs = _planned(ledger, batch, job.shard)
    try:
        check_batch(ledger, batch, settings)
    except NotAllowed as error:
        report = _shard_report(job, [_failed(ref, str(error), code_of(error)) for ref in refs], StageClock(), 0.0)
        _write_report(ledger, batch_id, batch.lane, report)
        return ShardRun(batch, report.totals)
    deaths = crash_counts(attempts)
    begun = read_checkpoint(ledger, batch, job.shard, refs)
    destination = open_store(batch.destination, s3=settings.s3, create=True)
    absent = Absent(destination, [ref.key for ref in refs if ref.key not in begun])
    source_of = sources_in(ledger, Ledger(destination, RESERVED.rstrip("/")))
    started = time.monotonic()

    beats = count(1)

    def done() -> list[PhotoReport]:
        return [*begun.values(), *runner.reports]

    def renew(lease: ShardLease) -> None:
        lease.beat(Totals.of(done()))
        if next(beats) % STOP_EVERY == 0 and (how := ledger.stopped(batch_id)):
            runner.stop(ShardStopped(f"batch {batch_id} was {how}"))

    def make_runner() -> ShardRunner:
        return ShardRunner(
            batch=batch,
            source=open_store(batch.source, s3=settings.s3),
            destination=destination,
            settings=settings,
            engine=lambda: load(batch.recipe, settings, batch.private),
            overtaken=overtaken,
            absent=absent,
            source_of=source_of,
        )

    lease = ShardLease(ledger, batch_id, job.shard, settings.lease_s)
    runner = make_runner() if deaths.together < SPLIT_AFTER else OneByOneRunner(make_runner, lease, deaths, overtaken)
    try:
        with (
            log_context(batch=batch_id, shard=job.shard, lane=batch.lane, tenant=batch.tenant),
            tracing.shard_span(batch, job.shard, len(refs)),
            _quiet(refs, settings),
            renewed(lease, interval_s=settings.progress_interval_s, on_beat=renew),
        ):
            # Once the try is known: whoever forgets photos waits for those that began before.
            refs = without_forgotten(ledger, batch, refs)
            left = [ref for ref in refs if ref.key not in begun]
            try:
                photos = _outcomes(runner, left, lease, others_may=settings.broker_url is not None)
                if not last_try and any(photo.transient for photo in photos):
                    raise ShardIncomplete(_transient(photos))
            except (ShardPreempted, ShardIncomplete, ShardStopped, ShardTimedOut):
                if runner.reports:
                    write_checkpoint(ledger, batch, job.shard, done())
                raise
            if (present := _as_it_is_now(ledger, batch)) is None:
                return None
            kept = _not_forgotten_since(ledger, batch, present, refs, destination)
            there = {ref.key for ref in kept}
            photos = in_order([photo for photo in (*begun.values(), *photos) if photo.key in there], kept)
            photos = [photo.model_copy(update={"attempts": 1 + deaths.of(photo.key)}) for photo in photos]
            report = _shard_report(job, photos, runner.clock, time.monotonic() - started)
            # While the lease is held: a worker that dies here is missed, too.
            _write_report(ledger, batch_id, batch.lane, report)
            if begun:
                delete_checkpoint(ledger, batch, job.shard)
    except ShardStopped as stop:
        # The lease is over by now, so a resume from here on sends the shard again.
        if ledger.stopped(batch_id):
            return None
        raise ShardResumed(f"shard {job.shard} was stopped and resumed") from stop
    heap.trim_heap()
    return ShardRun(present, report.totals)


def _not_forgotten_since(
    ledger: Ledger, batch: Batch, present: Batch, refs: Sequence[PhotoRef], destination: Store
) -> Sequence[PhotoRef]:
    """Return the photos that nobody has had forgotten since the shard began; outputs of the others are deleted.

    `apf forget` waits for a try that began before, and changes the record of a planned batch ahead of that. So the
    marks are asked for only where it has changed, or cannot be read: patience may have ended before the try.
    """
    if batch.planned and present is not batch and present == batch:
        return refs
    return without_forgotten(ledger, batch, refs, written_to=destination)


def without_forgotten(
    ledger: Ledger, batch: Batch, refs: Sequence[PhotoRef], *, written_to: Store | None = None
) -> list[PhotoRef]:
    """Return the photos that are not forgotten; outputs of the others are taken out of `written_to`, where given."""
    gone = frozenset() if batch.include_forgotten else forgotten_among(ledger, [ref.key for ref in refs])
    if written_to:
        for key in gone:
            delete_output(written_to, key)
    return [ref for ref in refs if ref.key not in gone]


def _planned(ledger: Ledger, batch: Batch, shard: int) -> list[PhotoRef]:
    """Return the shard's photos: its plan, or the record itself where that names all of them."""
    return list(batch.named) if batch.named and is_single(batch) else ledger.read_plan(batch.id, shard)


def _as_it_is_now(ledger: Ledger, batch: Batch) -> Batch | None:
    """Return the present record; None where the batch was taken back, or made anew under its id, since it was begun."""
    try:
        found = ledger.read_batch(batch.id)
    except LedgerError:
        return batch if ledger.has_batch(batch.id) else None  # torn, and not gone
    return found if found.created_at == batch.created_at else None


def report_lost_shard(job: ShardJob, settings: Settings, error: BaseException) -> None:
    """Report a shard that no further try will run: what it has not written yet has failed, because of this error.

    Where its plan was torn and is whole by now, it was sent again with that, and is reported by the worker that it
    comes to.

    Raises:
        LedgerError: the batch or the plan cannot be read.
    """
    ledger, batch_id = opened(job, settings)
    if ledger.has_report(batch_id, job.shard) or ledger.stopped(batch_id):
        return
    batch = ledger.read_batch(batch_id)
    check_batch(ledger, batch, settings)
    planned = ledger.read_plan(batch_id, job.shard)
    if isinstance(error, TornPlan):
        return
    destination = open_store(batch.destination, s3=settings.s3, create=True)
    refs, reason = without_forgotten(ledger, batch, planned), f"the shard was given up: {error}"
    photos = [_written_or_failed(ref, batch, destination, reason) for ref in refs]
    _write_report(ledger, batch_id, batch.lane, _shard_report(job, photos, StageClock(), 0.0))


def _write_report(ledger: Ledger, batch_id: str, lane: Lane, report: ShardReport) -> None:
    ledger.write_report(batch_id, report)
    metrics.shard_reported(report, lane)
    tracing.shard_reported(report)


def _quiet(refs: Sequence[PhotoRef], settings: Settings) -> AbstractContextManager[None]:
    return nullcontext() if settings.log_keys else keys_hidden(ref.key for ref in refs)


def _outcomes(
    runner: ShardRunner | OneByOneRunner, refs: Sequence[PhotoRef], lease: ShardLease, *, others_may: bool
) -> list[PhotoReport]:
    """Every photo's outcome, also where no photo can be protected or written."""
    try:
        return runner.run(refs)
    except SoftTimeLimitExceeded as error:
        lease.time_out()
        raise ShardTimedOut from error
    except ApfError as error:
        if others_may and isinstance(error, OtherVersion):
            raise
        if others_may and isinstance(error, DetectorUnreachable):
            raise ShardIncomplete(str(error)) from error
        done = [report for report in runner.reports if report.outcome is not Outcome.failed]
        return _rest_failed(refs, done, str(error), code_of(error))
    except DESTINATION_GONE as error:
        reason = f"not tried, as no photo can be written: {error}"
        return _rest_failed(refs, runner.reports, reason, code_of(error))


def opened(job: ShardJob, settings: Settings) -> tuple[Ledger, str]:
    """Return the ledger and id of a message's batch; raises NotAllowed where it may not lie."""
    check_allowed(job.batch_url, settings.allowed_for_batches, what="batch")
    return open_batch(job.batch_url, s3=settings.s3)


def _rest_failed(
    refs: Sequence[PhotoRef], reports: Sequence[PhotoReport], reason: str, code: FailureCode
) -> list[PhotoReport]:
    """Return a report of each photo, in the plan's order: those that there are, and failures of the rest."""
    known = {report.key: report for report in reports}
    return [known.get(ref.key) or _failed(ref, reason, code) for ref in refs]


def _written_or_failed(ref: PhotoRef, batch: Batch, destination: Store, reason: str) -> PhotoReport:
    with suppress(StoreError):  # a key that the destination cannot keep
        if done := already_done(ref, batch, destination.head(ref.key)):
            return done
    return _failed(ref, reason)


def _failed(ref: PhotoRef, reason: str, code: FailureCode = FailureCode.other) -> PhotoReport:
    return PhotoReport(key=ref.key, etag=ref.etag, outcome=Outcome.failed, reason=reason, code=code)


def _transient(photos: Sequence[PhotoReport]) -> str:
    """For the log, so without the reasons, which name keys."""
    return f"{sum(photo.transient for photo in photos)} of {len(photos)} photos failed for reasons that may pass"


def _shard_report(job: ShardJob, photos: list[PhotoReport], clock: StageClock, wall_seconds: float) -> ShardReport:
    return ShardReport(
        shard=job.shard,
        photos=tuple(photos),
        stage_seconds=clock.seconds,
        wall_seconds=wall_seconds,
        worker=f"{socket.gethostname()}:{os.getpid()}",
        finished_at=now().isoformat(timespec="milliseconds"),
        peak_memory_bytes=_peak_memory_bytes(),
    )


def _peak_memory_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
