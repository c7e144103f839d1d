"""Logging context of a thread: worker, task, batch, shard. Set while a shard runs; other threads inherit it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

#: The names that may stand in it, in the order in which logs show them.
NAMES = ("worker", "task", "batch", "shard", "lane", "tenant")


class PhotoKey(str):
    """A photo's key as an argument of a log message: a worker's log shows its digest, a user's terminal the key."""

    __slots__ = ()


_at: ContextVar[Mapping[str, object]] = ContextVar("apf_at", default=MappingProxyType({}))


def current_context() -> Mapping[str, object]:
    """Return what this thread is at; empty where nothing is known."""
    return _at.get()


def inherit_context(facts: Mapping[str, object]) -> None:
    """From now on this thread is at what another is at, which it works for: that one's `current_context()`."""
    _at.set(facts)


@contextmanager
def log_context(**facts: object) -> Iterator[None]:
    """While the block runs, this thread is also at this; names are those of `NAMES`, and empty values are left out."""
    token = _at.set(MappingProxyType({**_at.get(), **{name: value for name, value in facts.items() if value != ""}}))
    try:
        yield
    finally:
        _at.reset(token)
