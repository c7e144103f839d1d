"""Status of a batch that has ended, added up report by report, in bounded memory.

Keys are kept of retried photos and of what is told alone.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from workers.core.records import Batch, Outcome, PhotoReport, Totals
from workers.ledger.batch_ledger import Ledger
from workers.ledger.left_out import LeftOuts, read_left_outs
from workers.status.batch_status import BatchSummary, Failure
from workers.status.reports import Reported, reports, retries


@dataclass
class FinalStatus:
    """The end of a batch, from reports that are given in the order of their shards."""

    batch: Batch
    retried_by: dict[str, int]
    #: Failures that are kept, the first ones by key.
    most_failures: int
    #: Photos that are kept of a batch that has no more.
    few_photos: int
    totals: Totals = field(default_factory=Totals)
    failures: list[Failure] = field(default_factory=list)
    photos: list[PhotoReport] = field(default_factory=list)
    wall_seconds: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=dict)
    peak_memory_bytes: int = 0
    left_out: LeftOuts = field(default_factory=LeftOuts)
    #: When the last shard was done, as its report has it; empty where no report says so.
    finished_at: str = ""
    #: How often retried photos that failed were begun so far.
    _attempts: Counter[str] = field(default_factory=Counter)

    def take(self, reported: Reported) -> None:
        """Add a shard up."""
        report = reported.report
        self._attempts.update(
            {p.key: p.attempts for p in report.photos if p.outcome is Outcome.failed and p.key in self.retried_by}
        )
        self.totals += Totals.of(reported.counting)
        failed = [
            Failure.of(photo, self._attempts.get(photo.key, photo.attempts))
            for photo in reported.counting
            if photo.outcome is Outcome.failed
        ]
        self.failures = sorted([*self.failures, *failed], key=lambda failure: failure.key)[: self.most_failures]
        if self.batch.photos <= self.few_photos:
            self.photos = sorted([*self.photos, *reported.counting], key=lambda photo: photo.key)[: self.few_photos]
        self.wall_seconds += report.wall_seconds
        for stage, seconds in report.stage_seconds.items():
            self.stage_seconds[stage] = self.stage_seconds.get(stage, 0.0) + seconds
        self.peak_memory_bytes = max(self.peak_memory_bytes, report.peak_memory_bytes)
        self.finished_at = max(self.finished_at, report.finished_at)

    def summary(self) -> BatchSummary:
        """As `BatchWatch.poll` has it, with the first failures alone."""
        return BatchSummary(
            batch=self.batch,
            totals=self.totals,
            pending=0,
            missing=max(0, self.batch.photos - self.totals.photos),
            failures=tuple(self.failures),
            stopped=None,
            reported_shards=self.batch.shards,
            stage_seconds=dict(self.stage_seconds),
            wall_seconds=self.wall_seconds,
            peak_memory_bytes=self.peak_memory_bytes,
            left_out=self.left_out,
        )


def final_status(
    ledger: Ledger, batch: Batch, *, most_failures: int, few_photos: int, stopped: bool | None = None
) -> FinalStatus | None:
    """How the batch ended; None for one that is not done, or is stopped.

    Args:
        stopped: whether it is; None: the ledger is asked.

    Raises:
        LedgerError, StoreError: it cannot be read.
    """
    if not batch.planned or (ledger.stopped(batch.id) if stopped is None else stopped):
        return None
    left_out = read_left_outs(ledger, batch)
    ended = FinalStatus(batch, retries(ledger, batch), most_failures, few_photos, left_out=left_out)
    for reported in reports(ledger, batch, ended.retried_by):
        if reported is None:
            return None
        ended.take(reported)
    return ended
