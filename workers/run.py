"""From a message to a report: everything the task does, callable without Celery."""

from __future__ import annotations

import logging
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from apf.clock import StageClock
from apf.errors import ApfError
from apf.recipe import Recipe
from workers.engine import Engine, load_engine
from workers.errors import StoreError
from workers.job import Batch, Outcome, PhotoRef, PhotoReport, Progress, ShardJob, ShardReport, Totals
from workers.ledger import Ledger, open_batch
from workers.settings import Settings
from workers.shard import ShardRunner, already_done
from workers.store import Store, open_store

logger = logging.getLogger(__name__)


#: How often a shard looks whether its batch was cancelled, where it writes no progress.
CANCEL_CHECK_S = 5.0


class ShardCancelled(Exception):
    """Raised inside a shard whose batch was cancelled; its remaining photos stay pending."""


class ShardIncomplete(Exception):
    """Raised when photos failed for reasons that pass (a store that is down): a later run may finish the shard."""


def run_shard(
    job: ShardJob,
    settings: Settings,
    *,
    load: Callable[[Recipe, Settings], Engine] = load_engine,
    last_try: bool = True,
) -> Totals | None:
    """Protect a shard and write its report; None where there was nothing to do (reported already, or cancelled).

    Args:
        load: gives the engine for a recipe.
        last_try: report photos that failed for passing reasons, instead of raising.

    Raises:
        ShardIncomplete: some photos failed for reasons that pass, and this was not the last try.
        StoreError: the ledger cannot be read or written.
    """
    ledger, batch_id = open_batch(job.batch_url, s3=settings.s3)
    if ledger.has_report(batch_id, job.shard) or ledger.is_cancelled(batch_id):
        return None
    batch = ledger.read_batch(batch_id)
    refs = ledger.read_plan(batch_id, job.shard)
    started = time.monotonic()
    runner = ShardRunner(
        batch=batch,
        source=open_store(batch.source, s3=settings.s3),
        destination=open_store(batch.destination, s3=settings.s3, create=True),
        settings=settings,
        engine=lambda: load(batch.recipe, settings),
    )
    try:
        with _heartbeat(runner, ledger, batch_id, job.shard, settings.progress_interval_s):
            photos = runner.run(refs)
    except ShardCancelled:
        return None
    except ApfError as error:
        photos = _rest_failed(refs, runner.reports, str(error))
    if not last_try and any(photo.transient for photo in photos):
        raise ShardIncomplete(_first_transient(photos))
    report = _shard_report(job, photos, runner.clock, time.monotonic() - started)
    ledger.write_report(batch_id, report)
    return report.totals


def report_lost_shard(job: ShardJob, settings: Settings, reason: str) -> None:
    """Report a shard that no further try will run: what it has not written yet has failed, with this reason."""
    ledger, batch_id = open_batch(job.batch_url, s3=settings.s3)
    if ledger.has_report(batch_id, job.shard) or ledger.is_cancelled(batch_id):
        return
    batch = ledger.read_batch(batch_id)
    destination = open_store(batch.destination, s3=settings.s3, create=True)
    photos = [_written_or_failed(ref, batch, destination, reason) for ref in ledger.read_plan(batch_id, job.shard)]
    ledger.write_report(batch_id, _shard_report(job, photos, StageClock(), 0.0))


@contextmanager
def _heartbeat(runner: ShardRunner, ledger: Ledger, batch_id: str, shard: int, interval_s: float) -> Iterator[None]:
    """While the shard runs, write how far it is and stop it where its batch was cancelled."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(interval_s or CANCEL_CHECK_S):
            try:
                if interval_s:
                    ledger.write_progress(batch_id, _progress(shard, runner))
                if ledger.is_cancelled(batch_id):
                    runner.stop(ShardCancelled(f"batch {batch_id} was cancelled"))
            except StoreError as error:
                logger.warning("progress of shard %s was not written: %s", shard, error)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _progress(shard: int, runner: ShardRunner) -> Progress:
    return Progress(shard=shard, done=Totals.of(runner.reports), updated_at=_now())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _rest_failed(refs: Sequence[PhotoRef], reports: Sequence[PhotoReport], reason: str) -> list[PhotoReport]:
    """What has an outcome already keeps it, in the plan's order."""
    known = {report.key: report for report in reports if report.outcome is not Outcome.failed}
    return [known.get(ref.key) or _failed(ref, reason) for ref in refs]


def _written_or_failed(ref: PhotoRef, batch: Batch, destination: Store, reason: str) -> PhotoReport:
    return already_done(ref, batch, destination) or _failed(ref, reason)


def _failed(ref: PhotoRef, reason: str) -> PhotoReport:
    return PhotoReport(key=ref.key, etag=ref.etag, outcome=Outcome.failed, reason=reason)


def _first_transient(photos: Sequence[PhotoReport]) -> str:
    failed = [photo for photo in photos if photo.transient]
    return f"{len(failed)} photos failed for a reason that may pass: {failed[0].reason}"


def _shard_report(job: ShardJob, photos: list[PhotoReport], clock: StageClock, wall_seconds: float) -> ShardReport:
    return ShardReport(
        shard=job.shard,
        photos=tuple(photos),
        stage_seconds=clock.seconds,
        wall_seconds=wall_seconds,
        worker=f"{socket.gethostname()}:{os.getpid()}",
        finished_at=_now(),
        peak_memory_bytes=_peak_memory_bytes(),
    )


def _peak_memory_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
