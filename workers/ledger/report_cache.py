"""Cache of a batch's reports, kept beside them: the status of a large batch needs one read. Safe to delete.

    <batch>/digest.jsonl    a line for each report: its ETag, its sums, the photos that failed

A cache: it may be deleted at any time. A reader of many reports writes it, and a line counts
only as long as a listing shows its report with the same ETag, which means untouched since.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial

from workers.core.records import Batch, ShortReport
from workers.errors import LedgerError, StoreError
from workers.ledger.batch_ledger import ASKED_BY_NAME, Ledger, all_of

#: The digest is read where so many reports would have to be read else, and written after so many were.
WORTH = 256
#: Of a report with more failed photos there is no line, lest the digest grows as large as all reports.
FEW_FAILURES = 16


def read_reports(ledger: Ledger, batch_id: str, listed: Mapping[int, str]) -> list[ShortReport]:
    """Return these reports in short, by their shards; torn ones are left out.

    Args:
        listed: as `Ledger.listed_reports` gives it; an empty ETag is that of no report.
    """
    noted = _read(ledger, batch_id) if len(listed) >= WORTH else {}
    known = {shard: noted[shard] for shard, etag in listed.items() if shard in noted and noted[shard].etag == etag}
    unknown = sorted(listed.keys() - known.keys())
    read = {r.shard: r for r in all_of(partial(ledger.read_short, batch_id), unknown) if r}
    if len(read) >= WORTH:
        note_reports(ledger, batch_id, {**noted, **read}.values())
    return [report for _, report in sorted({**known, **read}.items())]


def open_shards(ledger: Ledger, batch: Batch) -> set[int]:
    """Return the planned shards that are not done. Once none is left each report is known whole, lest a torn one
    counts.
    """
    listed = ledger.listed_reports(batch.id)
    missing = set(range(batch.shards)) - listed.keys()
    if len(missing) > ASKED_BY_NAME:
        return missing  # a listing may lag: some of these may be done
    asked = dict.fromkeys(missing, "") if missing else {shard: listed[shard] for shard in range(batch.shards)}
    return asked.keys() - {report.shard for report in read_reports(ledger, batch.id, asked)}


def note_reports(ledger: Ledger, batch_id: str, reports: Iterable[ShortReport]) -> None:
    """Write the digest, as well as may be: a reader needs no right to write. A newer version's is left to it."""
    lines = [report for report in reports if report.etag and len(report.failed) <= FEW_FAILURES]
    with suppress(StoreError):
        if not ledger.has_newer_digest(batch_id):
            ledger.write_digest(batch_id, lines)


def _read(ledger: Ledger, batch_id: str) -> dict[int, ShortReport]:
    with suppress(LedgerError):  # torn, or of a newer version
        # A line without `weak_faces` is an older version's, maybe of a newer one's report.
        return {r.shard: r for r in ledger.read_digest(batch_id) if "weak_faces" in r.totals.model_fields_set}
    return {}
