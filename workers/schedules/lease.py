"""Lease on a schedule, in the object store: one process evaluates it at a time.

It spares work and is not what correctness rests on, as no store promises it without conditional writes: two who look at
once find the same moment due, and make the same batches of it.
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

#: Seconds after which a turn that was not renewed is over.
TURN_S = 120.0
#: Seconds between two renewals.
RENEW_S = 20.0

FILE = "turn.json"


class ScheduleLeaseLost(LedgerError):
    """Raised when somebody else has taken the turn over: what was found out meanwhile is for them to say."""


class _Holder(BaseModel):
    token: str
    until: datetime


@dataclass
class ScheduleLease:
    shelf: ScheduleRepository
    name: str
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    _renewed: float = field(default_factory=time.monotonic)

    def keep(self) -> None:
        """To be called now and then; raises TurnLost."""
        if time.monotonic() - self._renewed > RENEW_S:
            self.check()
            self.write()

    def check(self) -> None:
        """Raise TurnLost where somebody else has the turn."""
        if (holder := self.holder()) is None or holder.token != self.token:
            raise ScheduleLeaseLost(f"schedule {self.name} is looked at by somebody else now")

    def write(self) -> None:
        self._renewed = time.monotonic()
        until = now() + timedelta(seconds=TURN_S)
        self.shelf.put(self.name, FILE, _Holder(token=self.token, until=until))

    def holder(self) -> _Holder | None:
        data = self.shelf.read_bytes(self.name, FILE)
        with suppress(LedgerError):  # torn
            return parse(_Holder, data, LedgerError, FILE) if data else None
        return None


@contextmanager
def lease_at(shelf: ScheduleRepository, name: str) -> Iterator[ScheduleLease | None]:
    """Provide the turn at a schedule; None while somebody else has it."""
    turn = ScheduleLease(shelf, name)
    holder = turn.holder()
    if holder and holder.until > now():
        yield None
        return
    turn.write()
    try:
        turn.check()
    except ScheduleLeaseLost:
        yield None
        return
    try:
        yield turn
    finally:
        with suppress(StoreError, ScheduleLeaseLost):
            turn.check()
            shelf.store.delete(shelf.key(name, FILE))
