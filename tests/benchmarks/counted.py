"""Counts what is asked of stores, by patching their classes: the code under test opens them by URL, as ever."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from workers.store import ObjectInfo
from workers.store.s3 import PAGE_KEYS

#: The methods that cost one request on S3; a listing costs one for each page of `PAGE_KEYS` keys, one at least.
ONE_REQUEST = {
    "head": "HEAD", "get": "GET", "put": "PUT",
    "delete": "DELETE", "folders": "LIST", "clock": "LIST",
}  # fmt: skip


@contextmanager
def counted(*stores: type, latency_s: float = 0.0) -> Iterator[Counter[str]]:
    """Requests by S3's own names, while the block runs, of all stores of these classes in this process.

    Args:
        latency_s: how long each request takes longer, as if the store were at a distance.
    """
    count: Counter[str] = Counter()

    def ask(kind: str) -> None:
        count[kind] += 1
        if latency_s:
            time.sleep(latency_s)

    with ExitStack() as patches:
        for store in stores:
            for name, kind in ONE_REQUEST.items():
                patches.enter_context(mock.patch.object(store, name, _counting(getattr(store, name), kind, ask)))
            patches.enter_context(mock.patch.object(store, "list", _paged(store.list, ask)))  # type: ignore[attr-defined]
        yield count


def _counting(method: Any, kind: str, ask: Any) -> Any:
    def call(self: Any, *args: Any, **options: Any) -> Any:
        ask(kind)
        return method(self, *args, **options)

    return call


def _paged(method: Any, ask: Any) -> Any:
    def pages(self: Any, *args: Any, **options: Any) -> Iterator[ObjectInfo]:
        number = -1
        ask("LIST")
        for number, info in enumerate(method(self, *args, **options)):
            if number and number % PAGE_KEYS == 0:
                ask("LIST")
            yield info

    return pages
