"""What this thread is at, for logs: which task, batch, shard. Set while a shard runs; other threads are handed it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

#: The names that may stand in it, in the order in which logs show them.
NAMES = ("worker", "task", "batch", "shard", "lane", "tenant")

_at: ContextVar[Mapping[str, object]] = ContextVar("apf_at", default=MappingProxyType({}))


def current() -> Mapping[str, object]:
    """What this thread is at; empty where nothing is known."""
    return _at.get()


def take_over(facts: Mapping[str, object]) -> None:
    """From now on this thread is at what another is at, which it works for: that one's `current()`."""
    _at.set(facts)


@contextmanager
def at(**facts: object) -> Iterator[None]:
    """While the block runs, this thread is also at this; names are those of `NAMES`, and empty values are left out."""
    token = _at.set(MappingProxyType({**_at.get(), **{name: value for name, value in facts.items() if value != ""}}))
    try:
        yield
    finally:
        _at.reset(token)
