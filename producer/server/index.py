"""Index of all batches, for lists by tenant, destination, time and state: a copy of the ledger's, in memory.

Batches change in a few words of theirs alone. Those words, the state and the sums, are read when a page shows them.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from workers.core.records import Batch
from workers.ledger.batch_ledger import Ledger

SCHEMA = """
CREATE TABLE batches (
    place TEXT NOT NULL, id TEXT NOT NULL, destination TEXT NOT NULL, tenant TEXT NOT NULL,
    created TEXT NOT NULL, open INTEGER NOT NULL, PRIMARY KEY (place, id)) WITHOUT ROWID;
CREATE INDEX by_time ON batches (created, id);
CREATE INDEX by_tenant ON batches (tenant, created, id);
CREATE INDEX by_destination ON batches (destination, created, id);
CREATE INDEX by_id ON batches (id);
CREATE INDEX by_open ON batches (open, created, id);
"""


@dataclass(frozen=True)
class Entry:
    """A batch, as the index has it."""

    #: The name of its ledger below the ledgers' root (`Ledger.prefix`).
    place: str
    id: str
    destination: str
    tenant: str
    #: ISO 8601, UTC.
    created: str
    is_open: bool = True

    @classmethod
    def of(cls, ledger: Ledger, batch: Batch, *, is_open: bool = True) -> Entry:
        return cls(ledger.prefix, batch.id, batch.destination, batch.tenant, in_utc(batch.created_at), is_open)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a list is of; None: all."""

    tenants: tuple[str, ...] | None = None
    destination: str | None = None
    since: str | None = None
    until: str | None = None
    is_open: bool | None = None
    #: The last entry of the page before: its time and id.
    before: tuple[str, str] | None = None


class BatchIndex:
    """The entries, newest first. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(":memory:", check_same_thread=False)
        self._db.executescript(SCHEMA)
        #: Whether all batches of the ledger were seen since the start.
        self.is_complete = False

    def add(self, entries: Iterable[Entry]) -> None:
        rows = [(e.place, e.id, e.destination, e.tenant, e.created, int(e.is_open)) for e in entries]
        with self._lock, self._db:
            self._db.executemany("INSERT OR REPLACE INTO batches VALUES (?, ?, ?, ?, ?, ?)", rows)

    def remove(self, place: str, ids: Iterable[str]) -> None:
        with self._lock, self._db:
            self._db.executemany("DELETE FROM batches WHERE place = ? AND id = ?", [(place, one) for one in ids])

    def set_open(self, ids: Iterable[str]) -> None:
        """Note which batches are open by the ledger; all others are not."""
        now = set(ids)
        with self._lock, self._db:
            before = {row[0] for row in self._db.execute("SELECT id FROM batches WHERE open = 1")}
            changed = [(0, one) for one in before - now] + [(1, one) for one in now - before]
            self._db.executemany("UPDATE batches SET open = ? WHERE id = ?", changed)

    def ids(self, place: str) -> set[str]:
        with self._lock:
            return {row[0] for row in self._db.execute("SELECT id FROM batches WHERE place = ?", (place,))}

    def places_of(self, batch_id: str) -> list[str]:
        """Return the ledgers that have a batch of this id, as far as is known."""
        with self._lock:
            return [row[0] for row in self._db.execute("SELECT place FROM batches WHERE id = ?", (batch_id,))]

    def known(self, ids: Iterable[str]) -> set[str]:
        """Return which of these ids are in the index."""
        with self._lock:
            return {one for one in ids if self._db.execute("SELECT 1 FROM batches WHERE id = ?", (one,)).fetchone()}

    def count(self) -> int:
        with self._lock:
            return int(self._db.execute("SELECT count(*) FROM batches").fetchone()[0])

    def page(self, wanted: Wanted, limit: int) -> list[Entry]:
        """Return so many entries, newest first."""
        where, values = _conditions(wanted)
        query = f"SELECT place, id, destination, tenant, created, open FROM batches {where} "  # noqa: S608  no values
        with self._lock:
            rows = self._db.execute(query + "ORDER BY created DESC, id DESC LIMIT ?", (*values, limit)).fetchall()
        return [_entry(row) for row in rows]

    def lines(self) -> Iterator[str]:
        """Yield an entry a line, to be kept beside the ledgers."""
        with self._lock:
            rows = self._db.execute("SELECT place, id, destination, tenant, created, open FROM batches").fetchall()
        yield from (json.dumps(row) for row in rows)

    def take(self, lines: Iterable[str]) -> None:
        """Add what `lines` gave; raises ValueError where it is something else."""
        self.add(_entry(json.loads(line)) for line in lines)


def _entry(row: Sequence[Any]) -> Entry:
    place, batch_id, destination, tenant, created, is_open = row
    return Entry(str(place), str(batch_id), str(destination), str(tenant), str(created), bool(is_open))


def in_utc(moment: str) -> str:
    """Return a moment such that texts sort as moments do; raises ValueError."""
    found = datetime.fromisoformat(moment)
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    return found.astimezone(UTC).isoformat(timespec="seconds")


def _conditions(wanted: Wanted) -> tuple[str, list[Any]]:
    found: list[str] = []
    values: list[Any] = []
    if wanted.tenants is not None:
        found.append(f"tenant IN ({', '.join('?' * len(wanted.tenants))})")
        values += wanted.tenants
    simple = (("destination =", wanted.destination), ("created >=", wanted.since), ("created <", wanted.until))
    for condition, value in (*simple, ("open =", None if wanted.is_open is None else int(wanted.is_open))):
        if value is not None:
            found.append(f"{condition} ?")
            values.append(value)
    if wanted.before is not None:
        found.append("(created, id) < (?, ?)")
        values += wanted.before
    return (f"WHERE {' AND '.join(found)}" if found else ""), values
