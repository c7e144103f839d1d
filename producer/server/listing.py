"""Pages of batches."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from producer.server.board import State, state_of
from producer.server.index import Entry, Wanted
from producer.server.services import Services
from workers.errors import BadRequest, LedgerError
from workers.ledger.batch_ledger import Ledger, all_of
from workers.status.batch_status import BatchSummary

#: Batches that one request looks at for those of a state: whoever wants more goes on with the cursor.
LOOKED_AT = 500

Having = Literal["failed", "weak"]


@dataclass(frozen=True)
class Found:
    """A page, and where the next one begins."""

    summaries: list[BatchSummary]
    cursor: str | None


def page(
    the: Services, wanted: Wanted, limit: int, *, state: State | None = None, having: Having | None = None
) -> Found:
    """Return so many batches, newest first, with those that fit no longer left out.

    Raises:
        StoreError: the store refuses.
    """
    if state in ("planning", "running", "paused"):
        wanted = replace(wanted, is_open=True)
    found: list[BatchSummary] = []
    looked = 0
    while True:
        entries = the.index.page(wanted, limit)
        for entry, summary in zip(entries, all_of(partial(_summary, the), entries), strict=True):
            looked += 1
            wanted = replace(wanted, before=(entry.created, entry.id))
            if summary and _fits(summary, state, having):
                found.append(summary)
                if len(found) == limit:
                    break
        if len(entries) < limit and len(found) < limit:
            return Found(found, None)
        if len(found) == limit or looked >= LOOKED_AT:
            rest = the.index.page(wanted, 1)
            return Found(found, cursor_of(wanted.before) if rest and wanted.before else None)


def _summary(the: Services, entry: Entry) -> BatchSummary | None:
    ledger = Ledger(the.root, entry.place)
    try:
        return the.board.summary(ledger, entry.id)
    except LedgerError:  # taken back, or damaged
        if not ledger.has_batch(entry.id):
            the.index.remove(entry.place, [entry.id])
        return None


def _fits(summary: BatchSummary, state: State | None, having: Having | None) -> bool:
    if state and state_of(summary) != state:
        return False
    return having is None or (summary.failed if having == "failed" else summary.weak_photos) > 0


def cursor_of(before: tuple[str, str]) -> str:
    """Return the text that `before_of` reads."""
    return base64.urlsafe_b64encode(json.dumps(before).encode()).decode().rstrip("=")


def before_of(cursor: str) -> tuple[str, str]:
    """Return where a page begins; raises BadRequest where no page gave the cursor."""
    try:
        created, batch_id = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, TypeError, binascii.Error):
        raise BadRequest(f"cursor {cursor[:80]!r} is none: take `next` of the page before") from None
    return str(created), str(batch_id)
