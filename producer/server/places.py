"""Places of one server for what lasts longer than a question, of which no tenant takes all."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus

from producer.server.problems import Problem
from producer.server.settings import ServeSettings
from producer.server.tokens import Grant

#: Estimates and erasures at once, each of which reads a whole source or ledger; and those of one tenant.
LONG_ACTS, LONG_ACTS_PER_TENANT = 4, 2


@dataclass
class Places:
    """So many places. Safe to share between threads."""

    #: What takes them, and what else whoever gets none may do, for people.
    what: str
    instead: str
    most: int
    per_tenant: int
    #: What whoever gets none is asked to wait.
    retry_after_s: int
    _taken: Counter[str | None] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def one(self, tenant: str | None) -> Iterator[None]:
        """Hold a place while the block runs.

        Args:
            tenant: for whom; None: for the operator's own work, which is bounded by all places alone.

        Raises:
            Problem: 429, all are taken, or as many as one tenant may have.
        """
        with self._lock:
            if self._taken.total() >= self.most:
                raise self._refusal(f"{self.most} {self.what}, which are the most")
            if tenant is not None and self._taken[tenant] >= self.per_tenant:
                raise self._refusal(f"{self.per_tenant} {self.what} for {tenant!r}, which are the most for one tenant")
            self._taken[tenant] += 1
        try:
            yield
        finally:
            with self._lock:
                self._taken[tenant] -= 1
                self._taken += Counter()  # without those that hold none

    def _refusal(self, why: str) -> Problem:
        return Problem(HTTPStatus.TOO_MANY_REQUESTS, f"{why}: {self.instead}", Retry_After=str(self.retry_after_s))


def stream_places(serve: ServeSettings) -> Places:
    """Return the places of streams of events."""
    share = serve.streams_per_tenant or _half(serve.streams)
    return Places("streams are open", "ask for the status now and then", serve.streams, share, 30)


def protect_places(serve: ServeSettings) -> Places:
    """Return the places of photos that are protected while somebody waits."""
    share = serve.protect_per_tenant or _half(serve.protect_at_once)
    instead = "come again in a moment, or submit by POST /v1/batches"
    return Places("photos are in hand", instead, serve.protect_at_once, share, 2)


def long_act_places() -> Places:
    """Return the places of acts that read a whole source or ledger."""
    what = "estimates and erasures are in hand, each of which reads a whole source or ledger"
    return Places(what, "come again in a moment", LONG_ACTS, LONG_ACTS_PER_TENANT, 10)


def tenant_of(grant: Grant, tenant: str) -> str | None:
    """Return who takes a place for work of a tenant; None for the operator's own, which is of none."""
    return tenant if tenant or grant.tenants is not None else None


def tenants_of(grant: Grant) -> str | None:
    """Return who takes a place for what is of no one tenant: those that the token is bound to."""
    return None if grant.tenants is None else ", ".join(grant.tenants)


def _half(most: int) -> int:
    return (most + 1) // 2
