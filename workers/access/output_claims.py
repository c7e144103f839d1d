"""Ownership of outputs: a run replaces the output that a run wrote for the same photo, and nothing else.

Outputs say which photo they are of (`marks.SOURCE`). Those of versions before that did not: they are of the same photo
where they were made of the same version of it, and else where the ledger says that their batch had the same source.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from workers.core.records import Batch, PhotoRef
from workers.errors import (
    Changed,
    InvalidKey,
    IsOutput,
    LedgerError,
    NoConditions,
    Occupied,
    StoreError,
    StoreUnavailable,
)
from workers.ledger.batch_ledger import Ledger
from workers.store import ObjectInfo, Store
from workers.store.listing import Absent
from workers.store.output_metadata import BATCH, SOURCE, SOURCE_ETAG, is_output, source_mark

#: The source of the batch with this id, as far as is known.
SourceOf = Callable[[str], str | None]
#: Writes an output over the version with this ETag, over nothing for "", or over anything for None.
Put = Callable[[str | None], ObjectInfo]

CURE = "move it away, choose another destination, or replace it by --overwrite"


@dataclass
class Outputs:
    """Where the outputs of a batch go."""

    batch: Batch
    destination: Store
    #: Of the shard's keys, as far as is known; None: nothing is.
    absent: Absent | None
    source_of: SourceOf
    #: Whether the destination has not yet said that it knows no conditional writes.
    conditional: bool = True

    def found(self, ref: PhotoRef) -> ObjectInfo | None:
        """Return what lies where the photo's output goes."""
        return None if self.absent and ref.key in self.absent else self.destination.head(ref.key)

    def check_free(self, ref: PhotoRef, found: ObjectInfo | None) -> None:
        """Raise Occupied where the batch may not write the photo's output over what was found there."""
        if found is None or self.batch.overwrite:
            return
        there = f"{found.key!r} in {self.batch.destination}"
        if not is_output(found.metadata):
            raise Occupied(f"{there} was not written by apf and is left as it is: {CURE}")
        if not _is_of(ref, self.batch, found, self.source_of):
            raise Occupied(f"{there} is the output of another photo, as far as is known, and is left as it is: {CURE}")

    def write(self, ref: PhotoRef, put: Put, over: ObjectInfo | None) -> None:
        """Write over what was found when the photo was read, and over nothing that came there since.

        Raises:
            Occupied: as `check_free`.
            StoreError: the store refuses.
        """
        if self.batch.overwrite:
            put(None)
        else:
            self._write(ref, put, over.etag if over else "")

    def _write(self, ref: PhotoRef, put: Put, over: str) -> None:
        try:
            if self.conditional:
                put(over)
                return
        except Changed:
            now = self._looked_at(ref)
            if now != over:
                self._write(ref, put, now)
                return  # else the store gets conditions wrong
        except StoreError as error:
            if not isinstance(error, NoConditions) and type(error) is not StoreError:
                raise
            self.conditional = not isinstance(error, NoConditions)
        # Stores without conditions must not keep a photo out: a look right before the write comes as near as can be.
        if not (self.absent and self.absent.still(ref.key)):
            self._looked_at(ref)
        if not put(None).etag:  # Swift: another write of the same moment won
            self._looked_at(ref)

    def _looked_at(self, ref: PhotoRef) -> str:
        """Return the ETag of what lies there and may be replaced, or "" for nothing."""
        found = self.destination.head(ref.key)
        self.check_free(ref, found)
        return found.etag if found else ""


def check_original(ref: PhotoRef, batch: Batch, found: ObjectInfo) -> None:
    """Raise IsOutput where the photo was written by a run itself."""
    if is_output(found.metadata):
        raise IsOutput(
            f"{ref.key!r} in {batch.source} is an output of apf itself (batch {found.metadata.get(BATCH, 'unknown')}), "
            "and to protect it again would only harm it: name the original"
        )


def delete_output(destination: Store, key: str) -> bool | None:
    """Delete a photo's output; returns whether there was one, and None where something else lies there, and stays."""
    try:
        found = destination.head(key)
    except InvalidKey:
        return False
    if found is None:
        return False
    if not is_output(found.metadata):
        return None
    destination.delete(key)
    return True


def sources_in(ledger: Ledger, destination: Ledger) -> SourceOf:
    """Return a `SourceOf` that reads the batch's ledger, and the one beside the outputs, which an older setting may
    have used.

    Remembers what it read.
    """
    known: dict[str, str | None] = {}

    def source_of(batch_id: str) -> str | None:
        if batch_id not in known:
            known[batch_id] = next(_sources(batch_id, {one.url: one for one in (ledger, destination)}), None)
        return known[batch_id]

    return source_of


def _sources(batch_id: str, ledgers: dict[str, Ledger]) -> Iterator[str]:
    for ledger in ledgers.values():
        try:
            # Not parsed whole: a newer version's record names its source under this name, too.
            yield str(json.loads(ledger.read(ledger.key(batch_id, "batch.json")) or b"")["source"])
        except StoreUnavailable:
            raise  # the photo is tried again
        except (LedgerError, StoreError, ValueError, LookupError, TypeError):
            continue


def _is_of(ref: PhotoRef, batch: Batch, found: ObjectInfo, source_of: SourceOf) -> bool:
    marks, wanted = found.metadata, source_mark(batch.source, ref.key)
    if marks[SOURCE_ETAG] == ref.etag or marks.get(SOURCE) == wanted:
        return True
    if SOURCE in marks:
        return False
    source = source_of(marks.get(BATCH, ""))
    return source is not None and source_mark(source, ref.key) == wanted
