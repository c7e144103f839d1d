"""The ledger's .jsonl objects: a header that counts its lines, and a record on each, so that a torn one is noticed."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from workers.core.records import Outcome, PhotoReport, ShardReport, ShortReport, Totals, parse
from workers.errors import LedgerError, NewerRecord

#: Of the .jsonl objects; raised when an older reader would misread a new one. Older ones then leave it alone.
VERSION = 1

Line = TypeVar("Line", bound=BaseModel)


class Header(BaseModel):
    """The first line of a .jsonl object."""

    model_config = ConfigDict(extra="ignore")

    kind: str
    version: int = VERSION
    shard: int
    count: int


class PlanHeader(Header):
    kind: Literal["plan"] = "plan"
    #: The last photo before it; None in plans of what was named or is retried, and in those of older versions.
    after: str | None = None


class ReportHeader(Header):
    kind: Literal["report"] = "report"
    stage_seconds: dict[str, float]
    wall_seconds: float
    worker: str
    finished_at: str
    peak_memory_bytes: int
    #: None in what a foreign hand wrote.
    totals: Totals | None = None


class DigestHeader(Header):
    kind: Literal["digest"] = "digest"
    shard: int = 0


HeaderType = TypeVar("HeaderType", bound=Header)


def report_header(report: ShardReport) -> ReportHeader:
    """All of a report but its photos, and their sums."""
    facts = report.model_dump(exclude={"photos"})
    return ReportHeader.model_validate({**facts, "count": len(report.photos), "totals": report.totals})


def whole_report(data: bytes, shard: int, key: str) -> ShardReport:
    header, photos = read_lines(data, ReportHeader, PhotoReport, shard, key)
    facts = header.model_dump(exclude={"kind", "version", "count", "totals"})
    return ShardReport.model_validate({**facts, "photos": tuple(photos)})


def short_report(data: bytes, shard: int, key: str, etag: str) -> ShortReport:
    """By the header's sums; where these do not fit the lines, by all of them."""
    header, lines = split_lines(data, ReportHeader, shard, key)
    totals = header.totals
    likely = [(number, line) for number, line in enumerate(lines, start=2) if b'"failed"' in line]
    failed = _failed(parse(PhotoReport, line, LedgerError, f"{key}, line {number},") for number, line in likely)
    if totals is None or (totals.photos, totals.failed) != (len(lines), len(failed)):
        whole = whole_report(data, shard, key)
        totals, failed = whole.totals, _failed(whole.photos)
    return ShortReport(
        shard=shard,
        etag=etag,
        totals=totals,
        failed=failed,
        stage_seconds=header.stage_seconds,
        wall_seconds=header.wall_seconds,
        peak_memory_bytes=header.peak_memory_bytes,
    )


def read_lines(
    data: bytes, header_type: type[HeaderType], line_type: type[Line], shard: int, key: str
) -> tuple[HeaderType, list[Line]]:
    """Header and records of a .jsonl object; raises as `split_lines`, and where a record does not validate."""
    header, lines = split_lines(data, header_type, shard, key)
    with suppress(ValidationError):  # as one array, which is quicker
        records = _array(line_type).validate_json(b"[" + b",".join(lines) + b"]")
        if len(records) == len(lines):
            return header, records
    # One by one, to say which line is amiss.
    return header, [
        parse(line_type, line, LedgerError, f"{key}, line {number},") for number, line in enumerate(lines, start=2)
    ]


@cache
def _array(line_type: type[Line]) -> TypeAdapter[list[Line]]:
    return TypeAdapter(list[line_type])  # type: ignore[valid-type]


def split_lines(data: bytes, header_type: type[HeaderType], shard: int, key: str) -> tuple[HeaderType, list[bytes]]:
    """Header and lines of a .jsonl object.

    Raises:
        NewerRecord: a newer version wrote it.
        LedgerError: it is torn, of another shard, or its header does not validate.
    """
    first, *lines = data.split(b"\n")
    header = parse(header_type, first, LedgerError, f"{key}, line 1,")
    if header.version > VERSION:
        raise NewerRecord(f"{key} is of version {header.version}, newer than {VERSION}: upgrade this installation")
    if header.shard != shard:
        raise LedgerError(f"{key} is of shard {header.shard}, not of shard {shard}")
    if len(lines) != header.count + 1 or lines[-1]:
        raise LedgerError(f"{key} is torn: its header counts {header.count} lines, but it has {len(lines) - 1}")
    return header, lines[:-1]


def _failed(photos: Iterable[PhotoReport]) -> tuple[PhotoReport, ...]:
    return tuple(photo for photo in photos if photo.outcome is Outcome.failed)
