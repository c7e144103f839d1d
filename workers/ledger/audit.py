"""The audit log: one object in the ledger for each act that changes something.

    <prefix>/audit/20261129-164205-123456-ab12cd.json    who, when, what; names sort by time

A line names no photo: acts on photos say how many. It is written after the act, by whoever did it.
"""

from __future__ import annotations

import getpass
import logging
import socket
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from workers.core.clock import now
from workers.core.records import Batch, parse
from workers.errors import LedgerError, StoreError
from workers.ledger.batch_ledger import Ledger, all_of, new_batch_id

log = logging.getLogger(__name__)

FOLDER = "audit"
#: Lines that are read at once.
WINDOW = 256


class Act(BaseModel):
    """One act."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    #: ISO 8601 with its offset.
    at: str
    #: User and host, or a token's name.
    who: str
    #: As the command is called: submit, retry, resume, pause, cancel, forget, remember, schedule add ...
    act: str
    #: The batch; empty where it is of none.
    batch: str = ""
    schedule: str = ""
    #: What else there is to say, by name: counts, and options.
    facts: dict[str, str | int | float | bool] = {}


def local_actor() -> str:
    """Return who runs this process, as user@host."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def note_act(
    ledger: Ledger, who: str, act: str, *, batch: str = "", schedule: str = "", **facts: str | float | bool
) -> None:
    """Keep a line. A store that refuses is logged: the act is done."""
    _keep(ledger, who, act, batch, schedule, facts)


def note_submission(ledger: Ledger, who: str, batch: Batch, **facts: str) -> None:
    """As `note_act`, of a batch that was submitted."""
    again = {"include_forgotten": True} if batch.include_forgotten else {}
    _keep(ledger, who, "submit", batch.id, "", {"recipe": batch.recipe.name, "lane": batch.lane, **facts, **again})


def _keep(ledger: Ledger, who: str, act: str, batch: str, schedule: str, facts: dict[str, str | float | bool]) -> None:
    line = Act(
        at=now().isoformat(timespec="milliseconds"), who=who, act=act, batch=batch, schedule=schedule, facts=facts
    )
    try:
        ledger.put_json(f"{ledger.prefix}/{FOLDER}/{new_batch_id()}.json", line)
    except StoreError as error:
        log.error("the audit log lacks a line (%s of batch %r by %s): %s", act, batch, who, error)


def acts(ledger: Ledger, since: datetime | None = None, *, newest: int | None = None) -> Iterator[Act]:
    """Yield the lines since then, oldest first; raises StoreError. Torn ones are passed over.

    Args:
        newest: so many at the most.
    """
    folder = f"{ledger.prefix}/{FOLDER}/"
    # A clock that is a little behind may have written some before.
    after = f"{folder}{since:%Y%m%d-%H%M%S}" if since else ""
    keys = [info.key for info in deque(ledger.store.list(folder, start_after=after), maxlen=newest)]
    for first in range(0, len(keys), WINDOW):
        for key, data in zip(keys[first:], all_of(ledger.read, keys[first : first + WINDOW]), strict=False):
            with suppress(LedgerError):
                if data:
                    yield parse(Act, data, LedgerError, key)
