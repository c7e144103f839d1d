"""Isolate poison photos: run a shard whose workers died photo by photo, with a bound on tries."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from apf.runtime.stage_clock import StageClock
from workers.core.failure_codes import FailureCode
from workers.core.records import Outcome, PhotoRef, PhotoReport
from workers.execution.shard_pipeline import ShardPreempted, ShardRunner, in_order
from workers.ledger.leases import CrashCounts, ShardLease

log = logging.getLogger(__name__)

#: Deaths after which a shard is run photo by photo.
SPLIT_AFTER = 2
#: Deaths with one photo in hand after which that photo is given up.
POISON_AFTER = 3


class OneByOneRunner:
    """Runs photos one at a time, each named in the ledger before it is touched; those that killed already come last."""

    def __init__(
        self,
        make_runner: Callable[[], ShardRunner],
        lease: ShardLease,
        deaths: CrashCounts,
        overtaken: Callable[[], bool] = lambda: False,
    ) -> None:
        self.clock = StageClock()
        self._make_runner = make_runner
        self._lease = lease
        self._deaths = deaths
        self._overtaken = overtaken
        self._reports: list[PhotoReport] = []
        self._runner: ShardRunner | None = None
        self._stopped: BaseException | None = None

    def run(self, refs: Sequence[PhotoRef]) -> list[PhotoReport]:
        """Bring every photo to an outcome; the reports come in the order of `refs`.

        Raises:
            ApfError: the filter itself cannot be loaded.
            StoreError: the ledger cannot be told which photo is in hand.
            ShardPreempted: an upload waits.
        """
        for ref in sorted(refs, key=lambda ref: self._deaths.by_photo[ref.key]):
            if self._stopped:
                raise self._stopped
            self._reports.append(self._one(ref))
            if len(self._reports) < len(refs) and self._overtaken():
                raise ShardPreempted("an upload waits")
        self._lease.hold(None)
        return in_order(self._reports, refs)

    def stop(self, reason: BaseException) -> None:
        """Give the rest up, from any thread; `run` raises `reason`."""
        self._stopped = self._stopped or reason
        if self._runner:
            self._runner.stop(reason)

    @property
    def reports(self) -> list[PhotoReport]:
        return list(self._reports)

    def _one(self, ref: PhotoRef) -> PhotoReport:
        if self._deaths.by_photo[ref.key] >= POISON_AFTER:
            log.error("a photo killed its worker %s times and is given up", self._deaths.of(ref.key))
            return PhotoReport(
                key=ref.key,
                etag=ref.etag,
                outcome=Outcome.failed,
                reason=_reason(self._deaths.of(ref.key)),
                code=FailureCode.memory,
            )
        self._lease.hold(ref.key)
        self._runner = self._make_runner()
        self._runner.clock = self.clock
        (report,) = self._runner.run([ref])
        return report


def _reason(deaths: int) -> str:
    return (
        f"its worker died or ran out of time {deaths} times over it, the last {POISON_AFTER} with it alone in hand: "
        "look at the photo, or at the worker's memory"
    )
