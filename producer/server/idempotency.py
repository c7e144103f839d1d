"""Idempotency keys: the same request under the same key is done once, and answered alike by every server.

    <APF_LEDGER_URL>/.apf/serve/requests/<digest of token and key>    what was asked, and the answer once there is one

The ledger's store keeps them, so that Redis may be flushed and servers may die: a request that was cut short is taken
up under the batch id that it was given at first, which makes it the same batch again.

A record names no photo: an answer has to be given without their keys (`workers.deletion`), and what was asked is kept
as a digest that only whoever knows the idempotency key can make.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel

from apf.errors import ApfError
from producer.server.limits import Counters
from producer.server.problems import Problem
from producer.server.tokens import Grant
from workers.core.clock import now
from workers.core.records import Moment, parse
from workers.errors import LedgerError, NotFound, StoreError, WorkerError
from workers.ledger.batch_ledger import new_batch_id
from workers.store import Store

log = logging.getLogger(__name__)

FOLDER = ".apf/serve/requests/"
#: A request holds its key no longer than this, should its server die.
HELD_S = 120
#: Keys are kept for so long.
KEPT = timedelta(hours=48)
#: Objects that one sweep looks at.
SWEPT = 10_000


class _Record(BaseModel):
    """A request under a key."""

    fingerprint: str
    #: For the batch that the request makes, if it makes one.
    batch: str
    at: Moment
    #: None while it is not answered.
    answer: dict[str, Any] | None = None


class Requests:
    """Requests by their keys."""

    def __init__(self, root: Store, counters: Counters) -> None:
        self._root, self._counters = root, counters

    def once(
        self, grant: Grant, key: str | None, asked: object, act: Callable[[str | None], dict[str, Any]]
    ) -> tuple[dict[str, Any], bool]:
        """Return the answer, and whether it is that of an earlier request.

        Args:
            asked: route and body, as plain values.
            act: does it, given a batch id of this request's own where there is a key; its answer names no photo.

        Raises:
            Problem: 422, the key was another request's; 409, that request is not done yet.
            WorkerError: as `act`; the key is free again.
        """
        if key is None:
            return act(None), False
        name = hashlib.sha256(f"{grant.name}\0{key}".encode()).hexdigest()
        fingerprint = hmac.digest(key.encode(), repr(asked).encode(), "sha256").hex()
        if not self._counters.claim(name, HELD_S):
            raise Problem(
                HTTPStatus.CONFLICT,
                f"a request with Idempotency-Key {key!r} is going on: wait for it, then ask again",
                Retry_After="2",
            )
        try:
            return self._once(FOLDER + name, key, fingerprint, act)
        finally:
            self._counters.release(name)

    def _once(
        self, place: str, key: str, fingerprint: str, act: Callable[[str | None], dict[str, Any]]
    ) -> tuple[dict[str, Any], bool]:
        record = self._read(place)
        if record and record.fingerprint != fingerprint:
            raise Problem(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                f"Idempotency-Key {key!r} was given with another request: take a new key for each",
            )
        if record and record.answer is not None:
            return record.answer, True
        if record is None:
            at = now().isoformat(timespec="seconds")
            record = _Record(fingerprint=fingerprint, batch=new_batch_id(), at=at)
            self._write(place, record)
        try:
            answer = act(record.batch)
        except (WorkerError, ApfError, Problem) as error:
            # Where the store broke off it may have been done in part: the same key goes on with the same batch.
            if not (isinstance(error, StoreError) and error.transient):
                with suppress(StoreError):
                    self._root.delete(place)
            raise
        # Where this fails the same key does the same once more, under the same batch id.
        with suppress(StoreError):
            self._write(place, record.model_copy(update={"answer": answer}))
        return answer, False

    def sweep(self) -> None:
        """Delete what is old; raises StoreError."""
        # From anywhere, so that each has its turn however many there are.
        start = FOLDER + secrets.token_hex(1)
        for count, info in enumerate(self._root.list(FOLDER, start if secrets.randbelow(2) else "")):
            if count >= SWEPT:
                return
            if info.last_modified is not None and now() - info.last_modified > KEPT:
                self._root.delete(info.key)

    def _read(self, place: str) -> _Record | None:
        with suppress(NotFound, LedgerError):  # a torn one is as good as none
            return parse(_Record, self._root.get(place).data, LedgerError, place)
        return None

    def _write(self, place: str, record: _Record) -> None:
        self._root.put(place, record.model_dump_json().encode(), content_type="application/json")
