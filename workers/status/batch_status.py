"""Batch status, aggregated from shard reports."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field

from workers.core.failure_codes import known_code
from workers.core.records import Batch, PhotoReport, ShortReport, Totals
from workers.ledger.batch_ledger import Ledger, Stop
from workers.ledger.callback_state import Callback, read_callback
from workers.ledger.checkpoints import checkpoint_totals
from workers.ledger.leases import attempts_at, is_live
from workers.ledger.left_out import LeftOuts, read_left_outs
from workers.ledger.report_cache import WORTH, note_reports, read_reports
from workers.status.latest_outcomes import LatestOutcomes
from workers.status.reports import reports, retries

#: With no more open shards than this their reports are asked for by name at each look: a listing may lag.
ASKED_EACH_TIME = 4


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
    #: As in `PhotoReport`; of an older version's report by its reason.
    code: str

    @classmethod
    def of(cls, photo: PhotoReport, attempts: int) -> Failure:
        reason = photo.reason or ""
        return cls(photo.key, photo.etag, reason, photo.transient, attempts, known_code(photo.code, reason))

    def as_json(self) -> dict[str, object]:
        """Plain JSON values, as `--json` and callbacks have them."""
        return {name: value for name, value in asdict(self).items() if name != "etag"}


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
    #: Sums over what shards have done that run, or were left before their end; part of `pending`, and best effort.
    running: Totals = field(default_factory=Totals)
    #: How far the callback is of a batch that asked for one; one that is not done has none due.
    callback: Callback | None = None
    #: Entries that look like photos and are no part of `photos`, and those that were excluded.
    left_out: LeftOuts = field(default_factory=LeftOuts)

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
    def weak_faces(self) -> int:
        """Faces that a juror still knows; those of photos that failed for it, too."""
        return self.totals.weak_faces

    @property
    def weak_photos(self) -> int:
        """Photos with such a face."""
        return self.totals.weak_photos

    @property
    def cancelled(self) -> bool:
        return self.stopped == "cancelled"

    @property
    def done(self) -> bool:
        """Whether every object of the source is planned and every photo has its outcome."""
        return self.batch.planned and self.pending == 0


class BatchMonitor:
    """Follows one batch; each report is read once, and of a large batch's most need not be
    (`workers.ledger.report_cache`).

    Not to be shared between threads.
    """

    def __init__(self, ledger: Ledger, batch_id: str) -> None:
        self.ledger = ledger
        self.batch_id = batch_id
        self._reports: dict[int, ShortReport] = {}
        self._retries = LatestOutcomes()
        self._totals = Totals()
        self._stage_seconds: Counter[str] = Counter()
        #: Reports that were read a few at a time, since the digest was last written.
        self._unnoted = 0
        self._left_out = LeftOuts()
        self._left_out_at: str | None = None

    def poll(self, *, running: bool = False) -> BatchSummary:
        """Read what is new and say where the batch stands; with `running`, asks running shards how far they are.

        Raises:
            LedgerError: there is no such batch, or a retry's plan cannot be read (`apf resume` mends it).
            StoreError: the store refuses.
        """
        batch = self.ledger.read_batch(self.batch_id)
        self._retries.look(self.ledger, batch)
        new = self._new_reports(batch)
        for report in new:
            self._take(report)
        self._note(len(new))
        totals = self._totals - Totals.of(self._retries.replaced(self.ledger, batch, self._reports))
        left = batch.photos - totals.photos
        all_reported = len(self._reports) == batch.shards
        return BatchSummary(
            batch=batch,
            totals=totals,
            pending=0 if all_reported else max(1, left),
            missing=max(0, left) if all_reported else 0,
            failures=self._failures(),
            stopped=self.ledger.stopped(self.batch_id),
            reported_shards=len(self._reports),
            stage_seconds=dict(self._stage_seconds),
            wall_seconds=sum(report.wall_seconds for report in self._reports.values()),
            peak_memory_bytes=max((report.peak_memory_bytes for report in self._reports.values()), default=0),
            running=self._running(batch) if running and not all_reported else Totals(),
            callback=read_callback(self.ledger, batch) if batch.callback else None,
            left_out=self._left_outs(batch),
        )

    def photos(self) -> list[PhotoReport]:
        """Return what became of each photo whose shard is reported, by key, ascending; reads every report."""
        batch = self.ledger.read_batch(self.batch_id)
        found = reports(self.ledger, batch, retries(self.ledger, batch))
        return sorted((p for one in found if one for p in one.counting), key=lambda photo: photo.key)

    def _new_reports(self, batch: Batch) -> list[ShortReport]:
        missing = dict.fromkeys(sorted(set(range(batch.shards)) - self._reports.keys()), "")
        if len(missing) > ASKED_EACH_TIME:
            listed = self.ledger.listed_reports(self.batch_id, first=min(missing))
            missing = {shard: listed[shard] for shard in missing if shard in listed}
        return read_reports(self.ledger, self.batch_id, missing)

    def _take(self, report: ShortReport) -> None:
        self._reports[report.shard] = report
        self._totals += report.totals
        for stage, seconds in report.stage_seconds.items():
            self._stage_seconds[stage] += seconds  # type: ignore[assignment]  # seconds count, too

    def _note(self, new: int) -> None:
        """Keep the digest of a batch that is followed as new as that of one that is looked at once."""
        self._unnoted = self._unnoted + new if new < WORTH else 0  # so many were noted as they were read
        if self._unnoted >= max(WORTH, len(self._reports) // 10):  # each writes the whole of it
            note_reports(self.ledger, self.batch_id, self._reports.values())
            self._unnoted = 0

    def _left_outs(self, batch: Batch) -> LeftOuts:
        """Read where planning has gone on since the last look."""
        if batch.updated_at != self._left_out_at:
            self._left_out, self._left_out_at = read_left_outs(self.ledger, batch), batch.updated_at
        return self._left_out

    def _failures(self) -> tuple[Failure, ...]:
        found: dict[str, PhotoReport] = {}
        attempts: Counter[str] = Counter()
        for shard, report in self._reports.items():
            for photo in report.failed:
                attempts[photo.key] += photo.attempts
                if not self._retries.replaces(shard, photo):
                    found[photo.key] = photo
        return tuple(Failure.of(found[key], attempts[key]) for key in sorted(found))

    def _running(self, batch: Batch) -> Totals:
        done = checkpoint_totals(self.ledger, batch)
        for attempt in attempts_at(self.ledger, self.batch_id):
            if is_live(attempt):  # its own count holds what earlier tries did, once it has begun to count
                done[attempt.shard] = max(done.get(attempt.shard, Totals()), attempt.done, key=lambda sums: sums.photos)
        return Totals.sum(sums for shard, sums in done.items() if shard not in self._reports)
