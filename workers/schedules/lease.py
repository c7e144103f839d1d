"""Lease on a schedule, in the object store: one process evaluates it at a time.

It spares work and correctness does not rest on it, as no store promises it without conditional writes: two processes
that evaluate at once find the same moment due, and make the same batches of it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pydantic import BaseModel

from workers.core.clock import now
from workers.core.records import parse
from workers.errors import LedgerError, StoreError
from workers.schedules.repository import ScheduleRepository

#: Seconds after which a lease that was not renewed is over.
LEASE_S = 120.0
#: Seconds between two renewals.
RENEW_S = 20.0

FILE = "turn.json"


class ScheduleLeaseLost(LedgerError):
    """Raised when another process has taken the lease over: what was found meanwhile is dropped."""


class _Holder(BaseModel):
    token: str
    until: datetime


@dataclass
class ScheduleLease:
    repository: ScheduleRepository
    name: str
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    _renewed: float = field(default_factory=time.monotonic)

    def keep(self) -> None:
        """Renew it where it is time; raises ScheduleLeaseLost."""
        if time.monotonic() - self._renewed > RENEW_S:
            self.check()
            self.write()

    def check(self) -> None:
        """Raise ScheduleLeaseLost where another process holds the lease."""
        if (holder := self.holder()) is None or holder.token != self.token:
            raise ScheduleLeaseLost(f"schedule {self.name} is evaluated by another process now")

    def write(self) -> None:
        self._renewed = time.monotonic()
        until = now() + timedelta(seconds=LEASE_S)
        self.repository.put(self.name, FILE, _Holder(token=self.token, until=until))

    def holder(self) -> _Holder | None:
        data = self.repository.read_bytes(self.name, FILE)
        with suppress(LedgerError):  # torn
            return parse(_Holder, data, LedgerError, FILE) if data else None
        return None


@contextmanager
def lease_at(repository: ScheduleRepository, name: str) -> Iterator[ScheduleLease | None]:
    """Provide the lease on a schedule; None while another process holds it."""
    lease = ScheduleLease(repository, name)
    holder = lease.holder()
    if holder and holder.until > now():
        yield None
        return
    lease.write()
    try:
        lease.check()
    except ScheduleLeaseLost:
        yield None
        return
    try:
        yield lease
    finally:
        with suppress(StoreError, ScheduleLeaseLost):
            lease.check()
            repository.store.delete(repository.key(name, FILE))
