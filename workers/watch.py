"""Where a batch stands, put together from its reports."""

from __future__ import annotations

from dataclasses import dataclass, field

from workers.attempts import attempts_at, is_live
from workers.callback import Callback, read_callback
from workers.errors import LedgerError
from workers.job import Batch, Outcome, PhotoReport, ShardReport, Totals
from workers.ledger import ASKED_BY_NAME, Ledger, Stop, all_of


@dataclass(frozen=True)
class Failure:
    """A photo that has no output, and why."""

    key: str
    etag: str
    reason: str
    #: Whether trying again can help.
    transient: bool
    #: How often a worker began it, in all shards that it stood in.
    attempts: int


@dataclass(frozen=True)
class BatchSummary:
    """Where a batch stands: photos = protected + no_face + skipped + failed + pending + missing."""

    batch: Batch
    #: Sums over the photos whose shards are reported; a retry's outcome stands in for the earlier one.
    totals: Totals
    pending: int
    #: Planned once, and in no report of a batch whose shards are all reported: deleted from the source before a torn
    #: plan was made anew. Protecting the source again finds whatever there is.
    missing: int
    #: By key, ascending.
    failures: tuple[Failure, ...]
    #: How it was stopped, if it was.
    stopped: Stop | None
    #: Shards with a report, of `batch.shards`.
    reported_shards: int
    #: Seconds in each stage and in all, added up over reported shards; shards may have run side by side.
    stage_seconds: dict[str, float]
    wall_seconds: float
    peak_memory_bytes: int
    #: Sums over what running shards say that they have done; part of `pending`, and best effort.
    running: Totals = field(default_factory=Totals)
    #: How far the callback is of a batch that asked for one; one that is not done has none due.
    callback: Callback | None = None

    @property
    def id(self) -> str:
        return self.batch.id

    @property
    def photos(self) -> int:
        """Photos planned so far."""
        return self.totals.photos + self.pending + self.missing

    @property
    def protected(self) -> int:
        return self.totals.protected

    @property
    def no_face(self) -> int:
        return self.totals.no_face

    @property
    def skipped(self) -> int:
        return self.totals.skipped

    @property
    def failed(self) -> int:
        return self.totals.failed

    @property
    def faces(self) -> int:
        return self.totals.faces

    @property
    def cancelled(self) -> bool:
        return self.stopped == "cancelled"

    @property
    def done(self) -> bool:
        """Whether every object of the source is planned and every photo has its outcome."""
        return self.batch.planned and self.pending == 0


class BatchWatch:
    """Follows one batch; each report is read once. Not to be shared between threads."""

    def __init__(self, ledger: Ledger, batch_id: str) -> None:
        self.ledger = ledger
        self.batch_id = batch_id
        self._reported: set[int] = set()
        #: What counts for each photo, and the shard that said it.
        self._latest: dict[str, tuple[int, PhotoReport]] = {}
        #: For photos that are retried: the last shard that does so; what earlier ones say counts no more.
        self._retried_by: dict[str, int] = {}
        self._looked_for_retries = 0
        #: How often each photo that failed was begun, in all of its shards.
        self._attempts: dict[str, int] = {}
        self._stage_seconds: dict[str, float] = {}
        self._wall_seconds = 0.0
        self._peak_memory_bytes = 0

    def poll(self, *, running: bool = False) -> BatchSummary:
        """Reads what is new and says where the batch stands; with `running`, asks running shards how far they are.

        Raises:
            LedgerError: there is no such batch, or a retry's plan cannot be read (`apf resume` mends it).
            StoreError: the store refuses.
        """
        batch = self.ledger.read_batch(self.batch_id)
        self._find_retries(batch)
        for report in self._new_reports(batch):
            self._take(report)
        totals = Totals.of(report for _, report in self._latest.values())
        left = batch.photos - totals.photos
        all_reported = len(self._reported) == batch.shards
        return BatchSummary(
            batch=batch,
            totals=totals,
            pending=0 if all_reported else max(1, left),
            missing=max(0, left) if all_reported else 0,
            failures=self._failures(),
            stopped=self.ledger.stopped(self.batch_id),
            reported_shards=len(self._reported),
            stage_seconds=dict(self._stage_seconds),
            wall_seconds=self._wall_seconds,
            peak_memory_bytes=self._peak_memory_bytes,
            running=self._running() if running else Totals(),
            callback=read_callback(self.ledger, batch) if batch.callback else None,
        )

    def photos(self) -> list[PhotoReport]:
        """What `poll` found of each photo, by key, ascending."""
        return [self._latest[key][1] for key in sorted(self._latest)]

    def _find_retries(self, batch: Batch) -> None:
        """Reads the plans of new retry shards: the photos of one that is not reported are pending again."""
        if batch.first_retry is None:
            return
        for shard in range(max(batch.first_retry, self._looked_for_retries), batch.shards):
            for photo in self._retried(shard):
                self._retried_by[photo] = max(shard, self._retried_by.get(photo, 0))
                if self._latest.get(photo, (shard,))[0] < shard:
                    del self._latest[photo]
        self._looked_for_retries = batch.shards

    def _retried(self, shard: int) -> list[str]:
        try:
            return [photo.key for photo in self.ledger.read_plan(self.batch_id, shard)]
        except LedgerError:
            if self.ledger.has_report(self.batch_id, shard):
                return []  # the report says as much
            raise

    def _new_reports(self, batch: Batch) -> list[ShardReport]:
        missing = set(range(batch.shards)) - self._reported
        if len(missing) > ASKED_BY_NAME:
            missing &= self.ledger.reported_shards(self.batch_id)
        found = all_of(lambda shard: self.ledger.read_report(self.batch_id, shard), sorted(missing))
        return [report for report in found if report is not None]

    def _take(self, report: ShardReport) -> None:
        self._reported.add(report.shard)
        for photo in report.photos:
            if photo.outcome is Outcome.failed:
                self._attempts[photo.key] = self._attempts.get(photo.key, 0) + photo.attempts
            if report.shard >= self._retried_by.get(photo.key, 0):
                self._latest[photo.key] = (report.shard, photo)
        for stage, seconds in report.stage_seconds.items():
            self._stage_seconds[stage] = self._stage_seconds.get(stage, 0.0) + seconds
        self._wall_seconds += report.wall_seconds
        self._peak_memory_bytes = max(self._peak_memory_bytes, report.peak_memory_bytes)

    def _failures(self) -> tuple[Failure, ...]:
        failed = [photo for _, photo in self._latest.values() if photo.outcome is Outcome.failed]
        return tuple(
            Failure(
                key=photo.key,
                etag=photo.etag,
                reason=photo.reason or "",
                transient=photo.transient,
                attempts=self._attempts[photo.key],
            )
            for photo in sorted(failed, key=lambda photo: photo.key)
        )

    def _running(self) -> Totals:
        live = {a.shard: a.done for a in attempts_at(self.ledger, self.batch_id) if is_live(a)}
        return Totals.sum(done for shard, done in live.items() if shard not in self._reported)
