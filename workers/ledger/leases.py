"""Shard leases and crash counts, in the ledger: no restart of anything forgets them.

A try writes `attempts/<shard>/<id>.json` when it starts, renews it while it runs, and takes it away when it ends, well
or not. A killed worker cannot do that: a record that is no longer renewed is a death. Shards whose workers die are
run photo by photo, and then the record names the photo in hand (`workers.execution.isolation`).
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from workers.core.clock import now
from workers.core.log_context import current_context, inherit_context
from workers.core.records import Attempt, Batch, Totals, parse
from workers.errors import LedgerError, NotFound, StoreError
from workers.ledger.batch_ledger import STOPS, Ledger, is_single

log = logging.getLogger(__name__)

#: A try is renewed this many times before others take it for dead.
BEATS_PER_LEASE = 6


@dataclass(frozen=True)
class CrashCounts:
    """How often a shard's workers died."""

    #: While photos were taken side by side: any of them may be why.
    together: int = 0
    #: While they were taken one by one: the photo that was in hand, by key.
    by_photo: Counter[str] = field(default_factory=Counter)

    def of(self, key: str) -> int:
        """Return the deaths that a photo may have to do with."""
        return self.together + self.by_photo[key]


def is_live(attempt: Attempt) -> bool:
    """Return whether a worker still runs it, as far as can be known."""
    if attempt.timed_out or now() - datetime.fromisoformat(attempt.seen_at) > timedelta(seconds=attempt.lease_s):
        return False
    # On its own host a process can be looked up, and need not be waited for.
    return attempt.host != socket.gethostname() or _runs(attempt.pid)


def attempts_at(
    ledger: Ledger, batch_id: str, shard: int | None = None, names: Iterable[str] | None = None
) -> list[Attempt]:
    """Return the tries of a shard, or of all shards, that have not ended; oldest first, live or dead.

    Args:
        names: as `Ledger.names` gave them; None lists.
    """
    folder = "attempts/" if shard is None else f"attempts/{shard:05}/"
    if names is None:
        names = ledger.names(batch_id, folder)
    found = [_read(ledger, ledger.key(batch_id, name)) for name in names if name.startswith(folder)]
    return sorted((attempt for attempt in found if attempt), key=lambda attempt: attempt.id)


def attempts_if_open(ledger: Ledger, batch: Batch, shard: int) -> list[Attempt] | None:
    """Return the shard's earlier tries; None where it is reported, or its batch is stopped.

    A batch of one shard, as an upload's is, has a dozen objects: one listing shows all of it. Where a listing lags, the
    shard runs again to the same report, or a stop of this very moment is seen as late as one of the next.
    """
    if is_single(batch):
        names = ledger.names(batch.id)
        if not {"reports/00000.jsonl", *STOPS} & {*names}:
            return attempts_at(ledger, batch.id, shard, names=names)
    if ledger.has_report(batch.id, shard) or ledger.stopped(batch.id):
        return None
    return attempts_at(ledger, batch.id, shard)


def crash_counts(attempts: Iterable[Attempt]) -> CrashCounts:
    """Return the deaths among a shard's tries."""
    dead = [attempt for attempt in attempts if not is_live(attempt)]
    named = Counter(attempt.photo for attempt in dead if attempt.photo is not None)
    return CrashCounts(together=len(dead) - named.total(), by_photo=Counter({key: named[key] for key in named if key}))


class ShardLease:
    """One running try: renewed by `beat`, told the photo in hand by `hold`. Safe to share between threads."""

    def __init__(self, ledger: Ledger, batch_id: str, shard: int, lease_s: float) -> None:
        self._ledger = ledger
        self._lock = threading.Lock()
        started = now()
        self._attempt = Attempt(
            id=f"{started:%Y%m%d-%H%M%S-%f}-{secrets.token_hex(3)}",
            shard=shard,
            host=socket.gethostname(),
            pid=os.getpid(),
            started_at=_text(started),
            seen_at=_text(started),
            lease_s=lease_s,
        )
        self._key = _key(ledger, batch_id, self._attempt)
        self._ended = False
        #: Seconds that may pass between two renewals.
        self.longest_s = lease_s / BEATS_PER_LEASE

    def beat(self, done: Totals | None = None) -> None:
        """Say that the try runs, and how far it is; raises StoreError."""
        self._write({"done": done} if done else {})

    def hold(self, photo: str | None) -> None:
        """Say which photo is in hand, before it is touched; raises StoreError."""
        self._write({"photo": photo})

    def time_out(self) -> None:
        """Mark a try that was stopped for its time, which counts as a death."""
        self._write({"timed_out": True})
        self._ended = True

    def end(self) -> None:
        """End the lease of a try that is over: nothing is left of it."""
        with self._lock:
            if not self._ended:
                self._ended = True
                with suppress(StoreError):
                    self._ledger.store.delete(self._key)

    def _write(self, changes: dict[str, object]) -> None:
        with self._lock:
            if self._ended:
                return
            self._attempt = self._attempt.model_copy(update={**changes, "seen_at": _text(now())})
            data = self._attempt.model_dump_json(indent=1).encode()
            self._ledger.store.put(self._key, data, content_type="application/json")


@contextmanager
def renewed(lease: ShardLease, *, interval_s: float, on_beat: Callable[[ShardLease], None]) -> Iterator[None]:
    """Hold a try that a thread renews while the block runs, and that is over when the block ends, however it ends.

    Args:
        interval_s: how often it is renewed; 0, or more than the lease allows, is as often as that asks.
        on_beat: called to renew it; may raise StoreError, which is logged.
    """
    lease.beat()
    ended = threading.Event()
    facts = current_context()

    def run() -> None:
        inherit_context(facts)
        while not ended.wait(min(interval_s or lease.longest_s, lease.longest_s)):
            try:
                on_beat(lease)
            except StoreError as error:
                log.warning("a shard's lease could not be renewed: %s", error)

    thread = threading.Thread(target=run, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        lease.end()


def release_leases(ledger: Ledger, batch_id: str, shard: int) -> None:
    """Take away this host's last try of a shard: its worker was asked to stop, and did not die of a photo."""
    mine = [attempt for attempt in attempts_at(ledger, batch_id, shard) if attempt.host == socket.gethostname()]
    if mine and not (mine[-1].timed_out or mine[-1].missed):
        ledger.store.delete(_key(ledger, batch_id, mine[-1]))


def mark_missed(ledger: Ledger, batch_id: str, attempts: Iterable[Attempt]) -> None:
    """Note of dead tries that their shard was sent again. One that lives after all overwrites it when it is renewed."""
    for attempt in attempts:
        ledger.put_json(_key(ledger, batch_id, attempt), attempt.model_copy(update={"missed": True}))


def _key(ledger: Ledger, batch_id: str, attempt: Attempt) -> str:
    return ledger.key(batch_id, "attempts", f"{attempt.shard:05}", f"{attempt.id}.json")


def _read(ledger: Ledger, key: str) -> Attempt | None:
    with suppress(NotFound, LedgerError):  # ended meanwhile, or torn: its next renewal mends it
        return parse(Attempt, ledger.store.get(key).data, LedgerError, key)
    return None


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")
