"""Whose an output is: a run replaces what a run wrote for the very same photo, and nothing else.

Outputs say which photo they are of (`marks.SOURCE`). Those of versions before that did not: they are of the same photo
where they were made of the same version of it, and else where the ledger says that their batch had the same source.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress

from workers.errors import IsOutput, LedgerError, Occupied, StoreError
from workers.job import Batch, PhotoRef
from workers.ledger import Ledger
from workers.marks import BATCH, SOURCE, SOURCE_ETAG, is_output, source_mark
from workers.store import ObjectInfo

#: The source of the batch with this id, as far as is known.
SourceOf = Callable[[str], str | None]

CURE = "move it away, choose another destination, or replace it by --overwrite"


def check_free(ref: PhotoRef, batch: Batch, found: ObjectInfo | None, source_of: SourceOf) -> None:
    """Raises Occupied where the batch may not write the photo's output over what was found there."""
    if found is None or batch.overwrite:
        return
    there = f"{found.key!r} in {batch.destination}"
    if not is_output(found.metadata):
        raise Occupied(f"{there} was not written by apf and is left as it is: {CURE}")
    if not _is_of(ref, batch, found, source_of):
        raise Occupied(f"{there} is the protected photo of another source and is left as it is: {CURE}")


def check_original(ref: PhotoRef, batch: Batch, found: ObjectInfo) -> None:
    """Raises IsOutput where the photo was written by a run itself."""
    if is_output(found.metadata):
        raise IsOutput(
            f"{ref.key!r} in {batch.source} is an output of apf itself (batch {found.metadata.get(BATCH, 'unknown')}), "
            "and to protect it again would only harm it: name the original"
        )


def sources_in(ledger: Ledger, destination: Ledger) -> SourceOf:
    """A `SourceOf` that reads the batch's ledger, and the one beside the outputs, which an older setting may have used.

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
        # Not parsed whole: a newer version's record names its source under this name, too.
        with suppress(LedgerError, StoreError, ValueError, LookupError, TypeError):
            yield str(json.loads(ledger.read(ledger.key(batch_id, "batch.json")) or b"")["source"])


def _is_of(ref: PhotoRef, batch: Batch, found: ObjectInfo, source_of: SourceOf) -> bool:
    marks, wanted = found.metadata, source_mark(batch.source, ref.key)
    if marks[SOURCE_ETAG] == ref.etag or marks.get(SOURCE) == wanted:
        return True
    if SOURCE in marks:
        return False
    source = source_of(marks.get(BATCH, ""))
    return source is not None and source_mark(source, ref.key) == wanted
