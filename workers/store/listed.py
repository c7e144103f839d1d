"""A store that is listed once before many of its objects are asked for: those that are not there need not be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import islice

from workers.errors import StoreError
from workers.store.base import NO_METADATA, Blob, ObjectInfo, Store

#: For fewer keys a listing is not worth its price, which is that of a dozen HEADs on AWS.
WORTH_LISTING = 8
#: No more than a page is listed: where other objects fill it, the rest is asked for one by one.
PAGE = 1000


def listed(store: Store, keys: Sequence[str]) -> Store:
    """The store, or where that saves requests one whose `head` knows which of these keys have no object.

    It knows that as of now: a listing may lag, and others may write. Who is told None must be able to do without.
    """
    if not store.lists_pages or len(keys) < WORTH_LISTING:
        return store
    first, last = min(keys, key=str.encode), max(keys, key=str.encode)
    with suppress(StoreError):  # asked one by one, it may say better what is wrong
        found = [info.key for info in islice(store.list(start_after=first), PAGE)]
        seen_to = last if len(found) < PAGE else found[-1]
        seen = [key for key in keys if first.encode() < key.encode() <= seen_to.encode()]
        return _Listed(store, frozenset(seen) - frozenset(found))
    return store


class _Listed:
    """The store itself, but for what is known to be absent."""

    def __init__(self, store: Store, absent: frozenset[str]) -> None:
        self._store = store
        self._absent = absent
        self.url = store.url
        self.lists_pages = store.lists_pages

    def head(self, key: str) -> ObjectInfo | None:
        return None if key in self._absent else self._store.head(key)

    def list(self, prefix: str = "", start_after: str = "") -> Iterator[ObjectInfo]:
        return self._store.list(prefix, start_after)

    def folders(self, prefix: str) -> Sequence[str]:
        return self._store.folders(prefix)

    def get(self, key: str, *, etag: str | None = None, max_bytes: int | None = None) -> Blob:
        return self._store.get(key, etag=etag, max_bytes=max_bytes)

    def put(
        self,
        key: str,
        data: bytes,
        *,
        content_type: str = "application/octet-stream",
        metadata: Mapping[str, str] = NO_METADATA,
    ) -> ObjectInfo:
        return self._store.put(key, data, content_type=content_type, metadata=metadata)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self._store.put_if_absent(key, data)

    def delete(self, key: str) -> None:
        self._store.delete(key)

    def clock(self) -> datetime:
        return self._store.clock()
