"""Sweep photos out of what schedules remember: their digests, and texts that name them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from workers.config.settings import Settings
from workers.errors import InvalidKey, LedgerError, NotFound
from workers.ledger.batch_ledger import all_of
from workers.ledger.redact import Names, redacted
from workers.schedules.lease import LEASE_S, lease_at
from workers.schedules.models import Schedule
from workers.schedules.repository import ScheduleRepository, all_schedules
from workers.store import open_store

FILES = ("schedule.json", "last.json", "error.json")
#: Somebody who looks at a schedule is waited for so long: one that died gives it back by then.
WAIT_S = LEASE_S + 10


@dataclass
class SchedulesSwept:
    records: set[str] = field(default_factory=set)
    left: list[str] = field(default_factory=list)


def sweep_schedules(
    destination: str,
    keys: Sequence[str],
    versions: Iterable[tuple[str, str]],
    settings: Settings,
    *,
    change: bool = True,
    wait_s: float = WAIT_S,
) -> SchedulesSwept:
    """Take photos out of all schedules into this destination; raises StoreError.

    Args:
        versions: (key, ETag) of those that the ledger knew.
    """
    swept = SchedulesSwept()
    for repository, schedule in _into(destination, settings):
        names = Names.of(keys, {*versions, *_present(schedule, keys, settings)})
        deadline = time.monotonic() + wait_s
        while not _sweep(repository, schedule.name, names, swept, change=change):
            if time.monotonic() > deadline:
                swept.left.append(f"schedule {schedule.name} is looked at by a worker: run the same command again")
                break
            time.sleep(0.5)
    return swept


def _into(destination: str, settings: Settings) -> list[tuple[ScheduleRepository, Schedule]]:
    found = []
    with suppress(LedgerError):  # no setting says where schedules lie: there are none
        for repository, name in all_schedules(settings):
            schedule = repository.read(name)
            if schedule.destination == destination:
                found.append((repository, schedule))
    return found


def _present(schedule: Schedule, keys: Sequence[str], settings: Settings) -> set[tuple[str, str]]:
    """Return the versions that the source has now."""
    with suppress(NotFound, InvalidKey):
        source = open_store(schedule.source, s3=settings.s3)
        return {(info.key, info.etag) for info in all_of(source.head, keys) if info}
    return set()


def _sweep(repository: ScheduleRepository, name: str, names: Names, swept: SchedulesSwept, *, change: bool) -> bool:
    """Return whether it was this process' turn."""
    with lease_at(repository, name) as turn:
        if turn is None:
            return False
        for file in FILES:
            data = repository.read_bytes(name, file)
            if data is None or (clean := redacted(file, data, names)) == data:
                continue
            swept.records.add(f"{repository.store.url} {repository.key(name, file)}")
            if change and clean is None:
                repository.store.delete(repository.key(name, file))
            elif change and clean is not None:
                repository.store.put(repository.key(name, file), clean, content_type="application/json")
    return True
