"""Forget photos: delete their outputs and every line of the ledger that names them, and keep them forgotten.

First a mark is set (`workers.ledger.forgotten`), which planners and workers look for: those that begin later leave the
photo out. Those that began before are waited for, and what they have written meanwhile is taken away, too. Originals
are never touched.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from workers.access.output_claims import delete_output
from workers.batches.create import ledgers_of
from workers.broker.event_marks import forget_events
from workers.config.access import check_allowed
from workers.config.settings import Settings
from workers.core.clock import now
from workers.deletion.ledger_sweep import LedgerSweep
from workers.deletion.schedule_sweep import sweep_schedules
from workers.errors import BadRequest
from workers.ledger.audit import note_act
from workers.ledger.batch_ledger import Ledger, all_of
from workers.ledger.forgotten import mark, unmark
from workers.store import RESERVED, Store, canonical_url, open_store
from workers.store.output_metadata import is_output

#: Keys of one call: each text of the ledger is searched for all of them.
MAX_KEYS = 10_000
#: Shards and planners that began before are waited for so long; they end by themselves.
WAIT_S = 300.0
LOOK_EVERY_S = 1.0


#: A ledger, and the batches of it to look at; None: all of it.
Part = tuple[LedgerSweep, Sequence[str] | None]


@dataclass(frozen=True)
class Forgotten:
    """What was forgotten, or would be."""

    keys: int
    #: Outputs that were deleted.
    outputs: int
    #: Objects of the ledger that named a photo, and do no more.
    records: int
    #: Batches of which no photo is left.
    batches: tuple[str, ...] = ()
    #: What still names a photo or may yet do so, each with its cure. Empty: nothing.
    left: tuple[str, ...] = ()


@dataclass
class _Counts:
    outputs: set[str] = field(default_factory=set)
    records: set[str] = field(default_factory=set)
    batches: set[str] = field(default_factory=set)
    left: dict[str, None] = field(default_factory=dict)


def forget(
    destination: str,
    keys: Collection[str],
    settings: Settings,
    *,
    actor: str,
    dry_run: bool = False,
    wait_s: float = WAIT_S,
) -> Forgotten:
    """Delete the outputs of photos, and take their names out of all that is kept of batches into this destination.

    It can be called again at any time, and mends what an earlier call that died has left.

    Args:
        keys: of the photos, below source and destination alike.
        actor: who asks for it, for the audit log (`workers.ledger.audit`).
        dry_run: only count.
        wait_s: at the most, for shards and planners that began before.

    Raises:
        BadRequest: no key, too many, or one that names no photo.
        NotAllowed: APF_ALLOWED_URLS is set, and the destination lies outside.
        LedgerError, StoreError: the ledger or the destination cannot be read or written; call it again.
    """
    wanted = _checked(keys)
    place = _allowed(destination, settings)
    ledgers = ledgers_of(place, settings)
    output_store = open_store(place, s3=settings.s3)
    counts = _Counts()
    if dry_run:
        return _counted(place, wanted, ledgers, output_store, settings)
    began = now()
    for ledger in ledgers:
        mark(ledger, wanted)
    sweeps = [LedgerSweep(ledger, wanted, settings) for ledger in ledgers]
    deadline = time.monotonic() + wait_s
    busy = _pass([(sweep, None) for sweep in sweeps], output_store, wanted, counts, began)
    while busy and time.monotonic() < deadline:
        while any(one.is_busy(batch_id, began) for one, ids in busy for batch_id in ids or ()) and (
            time.monotonic() < deadline
        ):
            time.sleep(LOOK_EVERY_S)
        busy = _pass(busy, output_store, wanted, counts, began)
    for _, ids in busy:
        counts.left |= {
            f"a worker or planner is still at batch {one}: run the same command again": None for one in ids or ()
        }
    versions = {version for sweep in sweeps for version in sweep.versions}
    found = sweep_schedules(place, wanted, versions, settings)
    counts.records |= found.records
    counts.left |= dict.fromkeys(found.left)
    forget_events(place, {how for sweep in sweeps for how in sweep.submitted}, wanted, settings)
    note_act(ledgers[0], actor, "forget", photos=len(wanted), outputs=len(counts.outputs), records=len(counts.records))
    return _told(wanted, counts)


def remember(destination: str, keys: Collection[str], settings: Settings, *, actor: str) -> int:
    """Let photos be protected again that were forgotten; returns how many of these were. Raises as `forget`."""
    wanted = _checked(keys)
    ledgers = ledgers_of(_allowed(destination, settings), settings)
    count = max(unmark(ledger, wanted) for ledger in ledgers)
    note_act(ledgers[0], actor, "remember", photos=count)
    return count


def _counted(
    destination: str, keys: Sequence[str], ledgers: Sequence[Ledger], output_store: Store, settings: Settings
) -> Forgotten:
    counts = _Counts()
    heads = zip(keys, all_of(output_store.head, keys), strict=True)
    counts.outputs |= {key for key, head in heads if head and is_output(head.metadata)}
    versions: set[tuple[str, str]] = set()
    for ledger in ledgers:
        sweep = LedgerSweep(ledger, keys, settings, change=False)
        counts.records |= sweep.run(now()).records
        versions |= sweep.versions
    counts.records |= sweep_schedules(destination, keys, versions, settings, change=False).records
    return _told(keys, counts)


def _pass(
    sweeps: Sequence[Part], output_store: Store, keys: Sequence[str], counts: _Counts, began: datetime
) -> list[Part]:
    """Take away what there is now; returns the batches that somebody is at who began before the marks were set."""
    busy: list[Part] = []
    for sweep, ids in sweeps:
        found = sweep.run(began, ids)
        counts.records |= found.records
        counts.batches |= found.batches
        counts.left |= dict.fromkeys(sorted(found.left))
        busy += [(sweep, sorted(found.busy))] if found.busy else []
    for key, was_there in zip(keys, all_of(partial(delete_output, output_store), keys), strict=True):
        if was_there:
            counts.outputs.add(key)
        elif was_there is None:
            counts.left[f"{key!r} in the destination was not written by apf and is left as it is"] = None
    return busy


def _allowed(destination: str, settings: Settings) -> str:
    place = canonical_url(destination)
    if settings.allowed_urls:
        check_allowed(place, settings.allowed, what="destination")
    return place


def _checked(keys: Collection[str]) -> list[str]:
    wanted = sorted(set(keys), key=lambda key: key.encode("utf-8", "surrogatepass"))
    if not wanted:
        raise BadRequest("no photo is named: give keys, as `apf status --failed` and the source's listing have them")
    if len(wanted) > MAX_KEYS:
        raise BadRequest(f"{len(wanted)} photos are named, and {MAX_KEYS} are the most: forget them in parts")
    for key in wanted:
        if not key or key.startswith(RESERVED) or "://" in key:
            raise BadRequest(f"{key!r} is no photo's key: give it as it is below the destination, as in ann/1.jpg")
    return wanted


def _told(keys: Sequence[str], counts: _Counts) -> Forgotten:
    return Forgotten(
        len(keys), len(counts.outputs), len(counts.records), tuple(sorted(counts.batches)), tuple(counts.left)
    )
