"""What must survive a batch, kept in the object store beside the output; the broker is never asked.

    <root>/batches/<id>/batch.json            what was asked, and how far planning has come
                       /plan/00042.jsonl      the photos of a shard
                       /reports/00042.jsonl   what became of them; a shard is done once this is there
                       /progress/00042.json   how far a running shard is; best effort, gone with its report
                       /cancelled             a marker

The root is `<destination>/.apf`, or `<ledger URL>/<name of the destination>`. A .jsonl object starts with a header that
counts its lines: one with fewer was torn, and a torn report counts as none. A GET of a report's known name decides
whether a shard is done; a listing, which may lag on some stores, only makes it quick to see.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from workers.errors import LedgerError, NotFound, StoreError
from workers.job import Batch, Outcome, PhotoRef, PhotoReport, Progress, ShardPlan, ShardReport, Totals, parse
from workers.store import AFTER_ALL, S3Options, Store, canonical_url, child_url, open_store, parent_url

log = logging.getLogger(__name__)

#: Of the .jsonl objects; raised, here and in `_Header`, when an older reader would misread a new one.
VERSION: Literal[1] = 1

#: With no more open shards than this their reports are asked for by name, and no listing is needed.
ASKED_BY_NAME = 32

#: Reports that are read at once: each is small, so its time is the store's answer.
READERS = 8

_BATCH_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,99}")

Line = TypeVar("Line", bound=BaseModel)


class _Header(BaseModel):
    """The first line of a .jsonl object."""

    model_config = ConfigDict(extra="ignore")

    kind: str
    version: Literal[1]
    shard: int
    count: int


class _PlanHeader(_Header):
    kind: Literal["plan"] = "plan"
    retries: bool


class _ReportHeader(_Header):
    kind: Literal["report"] = "report"
    stage_seconds: dict[str, float]
    wall_seconds: float
    worker: str
    finished_at: str
    peak_memory_bytes: int


@dataclass(frozen=True)
class Failure:
    """A photo that has no output, and why."""

    key: str
    etag: str
    reason: str
    #: Whether trying again can help.
    transient: bool


@dataclass(frozen=True)
class BatchSummary:
    """Where a batch stands: photos = protected + no_face + skipped + failed + pending."""

    batch: Batch
    #: Sums over the photos whose shards are reported; a retry's outcome stands in for the earlier one.
    totals: Totals
    pending: int
    #: By key, ascending.
    failures: tuple[Failure, ...]
    cancelled: bool
    #: Shards with a report, of `batch.shards`.
    reported_shards: int
    #: Seconds in each stage and in all, added up over reported shards; shards may have run side by side.
    stage_seconds: dict[str, float]
    wall_seconds: float
    peak_memory_bytes: int
    #: Sums over what running shards say that they have done; part of `pending`, and best effort.
    running: Totals = field(default_factory=Totals)

    @property
    def id(self) -> str:
        return self.batch.id

    @property
    def photos(self) -> int:
        """Photos planned so far."""
        return self.batch.photos

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
    def done(self) -> bool:
        """Whether every object of the source is planned and every photo has its outcome."""
        return self.batch.planned and self.pending == 0


def new_batch_id() -> str:
    """A new id. Ids sort by the time they were made, to the microsecond, as text."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}-{secrets.token_hex(3)}"


class Ledger:
    """The batches of one destination. Safe to share between threads.

    Besides what each method names, all of them raise StoreError when the store refuses.
    """

    def __init__(self, store: Store, prefix: str) -> None:
        self.store = store
        #: One plain name below the store's URL.
        self.prefix = prefix

    @property
    def url(self) -> str:
        return child_url(self.store.url, self.prefix)

    def batch_url(self, batch_id: str) -> str:
        """All that a message needs to name a batch; `open_batch` is its inverse."""
        return child_url(self.url, "batches", _checked(batch_id))

    def batches(self) -> list[str]:
        """The ids of all batches, oldest first."""
        root = f"{self.prefix}/batches/"
        ids: list[str] = []
        after = ""
        # batch.json is the first key of its batch, so one look and one jump for each batch will do.
        while (info := next(self.store.list(root, start_after=after), None)) is not None:
            batch_id, _, name = info.key.removeprefix(root).partition("/")
            if name == "batch.json":
                ids.append(batch_id)
            after = f"{root}{batch_id}/{AFTER_ALL}"
        return ids

    def write_batch(self, batch: Batch) -> None:
        self._put_json(self._key(batch.id, "batch.json"), batch)

    def read_batch(self, batch_id: str) -> Batch:
        """The batch's record.

        Raises:
            LedgerError: there is no such batch, or its record does not validate.
        """
        data = self._read(self._key(batch_id, "batch.json"))
        if data is None:
            raise LedgerError(
                f"there is no batch {batch_id!r} in {self.url}: `apf status` without a batch shows the last"
            )
        return parse(Batch, data, LedgerError, f"batch.json of {batch_id}")

    def write_plan(self, batch_id: str, shard: int, photos: Sequence[PhotoRef], *, retries: bool = False) -> None:
        """Writes a shard's photos; `retries` says that they stand in earlier shards, whose outcomes these replace."""
        header = _PlanHeader(version=VERSION, shard=shard, count=len(photos), retries=retries)
        self._put_lines(self._shard_key(batch_id, "plan", shard), header, photos)

    def read_plan(self, batch_id: str, shard: int) -> list[PhotoRef]:
        """The photos of a shard.

        Raises:
            LedgerError: there is no such plan, or it is torn or does not validate.
        """
        return list(self.read_shard_plan(batch_id, shard).photos)

    def read_shard_plan(self, batch_id: str, shard: int) -> ShardPlan:
        """As `read_plan`, with what the plan says about itself."""
        key = self._shard_key(batch_id, "plan", shard)
        data = self._read(key)
        if data is None:
            raise LedgerError(f"{key} is missing in {self.store.url}: shard {shard} was never planned, or was deleted")
        header, photos = _read_lines(data, _PlanHeader, PhotoRef, shard, key)
        return ShardPlan(shard=shard, photos=tuple(photos), retries=header.retries)

    def write_report(self, batch_id: str, report: ShardReport) -> None:
        """Writes what became of a shard, which makes the shard done."""
        facts = report.model_dump(exclude={"photos"})
        header = {"kind": "report", "version": VERSION, "count": len(report.photos), **facts}
        header["totals"] = report.totals.model_dump()
        self._put_lines(self._shard_key(batch_id, "reports", report.shard), _Free.model_validate(header), report.photos)
        with suppress(StoreError):
            self.store.delete(self._progress_key(batch_id, report.shard))

    def read_report(self, batch_id: str, shard: int) -> ShardReport | None:
        """What became of a shard, or None while it is not done. A torn report is none: the shard runs again."""
        key = self._shard_key(batch_id, "reports", shard)
        data = self._read(key)
        if data is None:
            return None
        try:
            header, photos = _read_lines(data, _ReportHeader, PhotoReport, shard, key)
        except LedgerError as error:
            log.warning("report taken as missing: %s", error)
            return None
        facts = header.model_dump(exclude={"kind", "version", "count"})
        return ShardReport.model_validate({**facts, "photos": tuple(photos)})

    def has_report(self, batch_id: str, shard: int) -> bool:
        """Whether the shard is done, by a GET of its report."""
        return self.read_report(batch_id, shard) is not None

    def reported_shards(self, batch_id: str) -> set[int]:
        """The shards whose reports a listing shows; it may lag behind `has_report`."""
        return set(self._listed(batch_id, "reports"))

    def write_progress(self, batch_id: str, progress: Progress) -> None:
        self._put_json(self._progress_key(batch_id, progress.shard), progress)

    def read_progress(self, batch_id: str, shard: int) -> Progress | None:
        """How far a running shard was when it last said so; None where it has not, or not legibly."""
        data = self._read(self._progress_key(batch_id, shard))
        with suppress(LedgerError):
            return None if data is None else parse(Progress, data, LedgerError, f"progress of shard {shard}")
        return None

    def running_shards(self, batch_id: str) -> set[int]:
        """The shards that have progress and, when they wrote it, no report."""
        return set(self._listed(batch_id, "progress"))

    def cancel(self, batch_id: str) -> None:
        """Marks the batch: workers finish the photo at hand and start no other shard of it."""
        self.store.put(self._key(batch_id, "cancelled"), b"", content_type="text/plain")

    def uncancel(self, batch_id: str) -> None:
        """Takes the mark away; silent where there is none."""
        self.store.delete(self._key(batch_id, "cancelled"))

    def is_cancelled(self, batch_id: str) -> bool:
        return self.store.head(self._key(batch_id, "cancelled")) is not None

    def summary(self, batch_id: str) -> BatchSummary:
        """Where the batch stands now. To ask again and again, keep a `BatchWatch`."""
        return BatchWatch(self, batch_id).poll()

    def _key(self, batch_id: str, *names: str) -> str:
        return "/".join([self.prefix, "batches", _checked(batch_id), *names])

    def _shard_key(self, batch_id: str, kind: str, shard: int) -> str:
        return self._key(batch_id, kind, f"{shard:05}.jsonl")

    def _progress_key(self, batch_id: str, shard: int) -> str:
        return self._key(batch_id, "progress", f"{shard:05}.json")

    def _listed(self, batch_id: str, kind: str) -> Iterator[int]:
        for info in self.store.list(self._key(batch_id, kind, "")):
            number = info.key.rpartition("/")[2].partition(".")[0]
            if number.isdecimal():
                yield int(number)

    def _read(self, key: str) -> bytes | None:
        try:
            return self.store.get(key).data
        except NotFound:
            return None

    def _put_json(self, key: str, record: BaseModel) -> None:
        self.store.put(key, record.model_dump_json(indent=1).encode(), content_type="application/json")

    def _put_lines(self, key: str, header: BaseModel, lines: Iterable[BaseModel]) -> None:
        text = "".join(record.model_dump_json() + "\n" for record in (header, *lines))
        self.store.put(key, text.encode(), content_type="application/jsonl")


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
        self._stage_seconds: dict[str, float] = {}
        self._wall_seconds = 0.0
        self._peak_memory_bytes = 0

    def poll(self, *, running: bool = False) -> BatchSummary:
        """Reads what is new and says where the batch stands; with `running`, asks running shards how far they are.

        Raises:
            LedgerError: there is no such batch, or the plan of a retry cannot be read.
            StoreError: the store refuses.
        """
        batch = self.ledger.read_batch(self.batch_id)
        self._find_retries(batch)
        for report in self._new_reports(batch):
            self._take(report)
        totals = Totals.of(report for _, report in self._latest.values())
        return BatchSummary(
            batch=batch,
            totals=totals,
            pending=max(0, batch.photos - totals.photos),
            failures=self._failures(),
            cancelled=self.ledger.is_cancelled(self.batch_id),
            reported_shards=len(self._reported),
            stage_seconds=dict(self._stage_seconds),
            wall_seconds=self._wall_seconds,
            peak_memory_bytes=self._peak_memory_bytes,
            running=self._running() if running else Totals(),
        )

    def _find_retries(self, batch: Batch) -> None:
        """Reads the plans of new retry shards. They are the last of a planned batch, so the first other one ends it."""
        if not batch.planned:
            return
        for shard in range(batch.shards - 1, self._looked_for_retries - 1, -1):
            plan = self.ledger.read_shard_plan(self.batch_id, shard)
            if not plan.retries:
                break
            for photo in plan.photos:
                self._retried_by[photo.key] = max(shard, self._retried_by.get(photo.key, 0))
                if self._latest.get(photo.key, (shard,))[0] < shard:
                    del self._latest[photo.key]  # pending again
        self._looked_for_retries = batch.shards

    def _new_reports(self, batch: Batch) -> list[ShardReport]:
        missing = set(range(batch.shards)) - self._reported
        if len(missing) > ASKED_BY_NAME:
            missing &= self.ledger.reported_shards(self.batch_id)
        found = self._read_all(self.ledger.read_report, sorted(missing))
        return [report for report in found if report is not None]

    def _take(self, report: ShardReport) -> None:
        self._reported.add(report.shard)
        for photo in report.photos:
            if report.shard >= self._retried_by.get(photo.key, 0):
                self._latest[photo.key] = (report.shard, photo)
        for stage, seconds in report.stage_seconds.items():
            self._stage_seconds[stage] = self._stage_seconds.get(stage, 0.0) + seconds
        self._wall_seconds += report.wall_seconds
        self._peak_memory_bytes = max(self._peak_memory_bytes, report.peak_memory_bytes)

    def _failures(self) -> tuple[Failure, ...]:
        failed = [photo for _, photo in self._latest.values() if photo.outcome is Outcome.failed]
        return tuple(
            Failure(key=photo.key, etag=photo.etag, reason=photo.reason or "", transient=photo.transient)
            for photo in sorted(failed, key=lambda photo: photo.key)
        )

    def _running(self) -> Totals:
        shards = sorted(self.ledger.running_shards(self.batch_id) - self._reported)
        found = self._read_all(self.ledger.read_progress, shards)
        return Totals.sum(progress.done for progress in found if progress is not None)

    def _read_all(self, read: Any, shards: Sequence[int]) -> list[Any]:
        if len(shards) < 2:
            return [read(self.batch_id, shard) for shard in shards]
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(lambda shard: read(self.batch_id, shard), shards))


def open_ledger(destination: str, *, ledger_url: str | None = None, s3: S3Options | None = None) -> Ledger:
    """The ledger of a destination: beside its objects, or below `ledger_url` under the destination's name.

    Raises:
        StoreError: a URL is malformed, or the destination's folder does not exist.
    """
    if ledger_url is None:
        return Ledger(open_store(destination, s3=s3), ".apf")
    return Ledger(open_store(ledger_url, s3=s3, create=True), _slug(canonical_url(destination)))


def open_batch(batch_url: str, *, s3: S3Options | None = None) -> tuple[Ledger, str]:
    """The ledger and id that `Ledger.batch_url` was made from.

    Raises:
        LedgerError: the URL is no batch's.
        StoreError: its folder does not exist.
    """
    store_url, names = parent_url(canonical_url(batch_url), 3)
    if "://" not in store_url or len(names) != 3 or names[1] != "batches":
        raise LedgerError(f"{batch_url!r} is no batch's URL: it should end in .apf/batches/<id>")
    prefix, _, batch_id = names
    return Ledger(open_store(store_url, s3=s3), prefix), _checked(batch_id)


def _slug(url: str) -> str:
    """A plain name for a destination: legible, and told apart by a hash."""
    legible = re.sub(r"[^A-Za-z0-9]+", "-", url).strip("-")[-48:].strip("-")
    return f"{legible}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"


def _checked(batch_id: str) -> str:
    if not _BATCH_ID.fullmatch(batch_id):
        raise LedgerError(f"{batch_id!r} is no batch's id: it looks like {new_batch_id()}")
    return batch_id


class _Free(BaseModel):
    """A header to be written: its fields are those given."""

    model_config = ConfigDict(extra="allow")


HeaderType = TypeVar("HeaderType", bound=_Header)


def _read_lines(
    data: bytes, header_type: type[HeaderType], line_type: type[Line], shard: int, key: str
) -> tuple[HeaderType, list[Line]]:
    """Header and records of a .jsonl object.

    Raises:
        LedgerError: it is torn, of another version or shard, or does not validate.
    """
    first, *lines = data.split(b"\n")
    header = parse(header_type, first, LedgerError, f"{key}, line 1,")
    if header.shard != shard:
        raise LedgerError(f"{key} is of shard {header.shard}, not of shard {shard}")
    if len(lines) != header.count + 1 or lines[-1]:
        raise LedgerError(f"{key} is torn: its header counts {header.count} lines, but it has {len(lines) - 1}")
    records = [parse(line_type, line, LedgerError, f"{key}, line {n},") for n, line in enumerate(lines[:-1], start=2)]
    return header, records
