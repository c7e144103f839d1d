"""Objects of a source that are not planned, with the reason: left out, or excluded. All of them are reported.

    <batch>/left-out.json    how many there are, and the first of them

It is an object of its own, written before the plans around it: older versions read the batch's record as before. What
lies before `upto` is counted, so a planner that dies anywhere, or that another follows, counts nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel, ConfigDict, Field

from apf.exclusions import Exclusions
from workers.core.records import Batch, parse
from workers.errors import LedgerError
from workers.ledger.batch_ledger import Ledger
from workers.store import LeftOut, ObjectInfo
from workers.store.media_types import has_photos_suffix, is_taken

RECORD = "left-out.json"
#: So many are named.
NAMED = 100


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Named(_Record):
    """Something that is not protected. The key of a folder ends with a slash; what is no UTF-8 in it is escaped."""

    key: str
    reason: str


class LeftOuts(_Record):
    """Entries that look like photos and are not protected, and those that patterns excluded."""

    #: Counted up to and with this key.
    upto: str = ""
    total: int = Field(default=0, ge=0)
    #: Part of the batch's `ignored`.
    excluded: int = Field(default=0, ge=0)
    #: Photos that are left out as they were forgotten (`workers.ledger.forgotten`).
    forgotten: int = Field(default=0, ge=0)
    #: The first ones, in the order of their keys.
    named: tuple[Named, ...] = ()


def read_left_outs(ledger: Ledger, batch: Batch) -> LeftOuts:
    """Return the batch's record; an empty one where nothing was left out. A torn one says so."""
    data = None if batch.named else ledger.read(ledger.key(batch.id, RECORD))
    try:
        return LeftOuts() if data is None else parse(LeftOuts, data, LedgerError, RECORD)
    except LedgerError as error:
        reason = f"what was left out is not known ({error}): run the command again"
        return LeftOuts(total=1, named=(Named(key=RECORD, reason=reason),))


class LeftOutCollector:
    """Follows a listing that goes on from some key: counts what it passes by, from where an earlier one ended."""

    def __init__(
        self, ledger: Ledger, batch: Batch, exclusions: Exclusions, is_part: Callable[[str], bool] = lambda key: True
    ) -> None:
        """`is_part`: whether what has this key is in the batch's part of the source."""
        known = read_left_outs(ledger, batch)
        self._ledger, self._batch, self._exclusions, self._is_part = ledger, batch, exclusions, is_part
        self._upto, self._total, self._excluded, self._named = known.upto, known.total, known.excluded, [*known.named]
        self._forgotten = known.forgotten
        self._kept = (known.total, known.excluded, known.forgotten)
        self._met: list[LeftOut] = []
        #: Whether the listing has come to where an earlier one ended.
        self._is_new = False

    def meet(self, one: LeftOut) -> None:
        """Collect an object for the store's listing; the objects around it come in the order of their keys."""
        self._met.append(one)

    def passed(self, key: str, *, excluded: bool = False) -> None:
        """All that was met lies before this key, which the listing has come to."""
        self._is_new = self._is_new or key.encode() > self._upto.encode()
        if self._is_new:
            self._upto = key
            self._excluded += excluded
        if self._met:
            counting = [one for one in self._met if self._is_new and self._is_photos(one)]
            self._total += len(counting)
            self._named += [Named(key=one.key, reason=one.reason) for one in counting[: NAMED - len(self._named)]]
            self._met.clear()

    def passed_forgotten(self, key: str) -> None:
        """As `passed`, of a forgotten photo, whose key is kept nowhere."""
        self._is_new = self._is_new or key.encode() > self._upto.encode()
        self._forgotten += self._is_new

    def write(self) -> None:
        """Keep it, where something was left out, excluded or passed as forgotten since."""
        if self._kept == (self._total, self._excluded, self._forgotten):
            return
        self._kept = (self._total, self._excluded, self._forgotten)
        record = LeftOuts(
            upto=self._upto,
            total=self._total,
            excluded=self._excluded,
            forgotten=self._forgotten,
            named=tuple(self._named),
        )
        self._ledger.put_json(self._ledger.key(self._batch.id, RECORD), record)

    def _is_photos(self, one: LeftOut) -> bool:
        if self._exclusions.match(one.key) or not self._is_part(one.key):
            return False
        if one.kind == "folder":
            return True
        if one.kind == "special" and not self._batch.private:
            return has_photos_suffix(one.key)
        return is_taken(ObjectInfo(key=one.key, size=0, etag=""), private=self._batch.private)
