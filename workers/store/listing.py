"""List a destination once before a shard: outputs that are not there need no request."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from itertools import islice

from workers.errors import StoreError
from workers.store.base import Store

#: For fewer keys a listing is not worth its price, which is that of a dozen HEADs on AWS.
WORTH_LISTING = 8
#: No more than a page is listed: where other objects fill it, the rest is asked for one by one.
PAGE = 1000
#: Before a write without conditions, a listing is good for so long.
GOOD_FOR_S = 5.0


def absent_keys(store: Store, keys: Sequence[str]) -> frozenset[str]:
    """Those of the keys that are known to have no object; none where a listing saves no requests.

    That is as of now: a listing may lag, and others may write. A caller that skips a HEAD for it must cope with that.
    """
    if not store.lists_pages or len(keys) < WORTH_LISTING:
        return frozenset()
    first, last = min(keys, key=str.encode), max(keys, key=str.encode)
    try:
        found = [info.key for info in islice(store.list(start_after=first), PAGE)]
    except StoreError:  # asked one by one, it may say better what is wrong
        return frozenset()
    seen_to = last if len(found) < PAGE else found[-1]
    seen = (key for key in keys if first.encode() < key.encode() <= seen_to.encode())
    return frozenset(seen) - frozenset(found)


class Absent:
    """The `absent_keys` of a shard, listed anew to see what came there since. Threads may share it."""

    def __init__(self, store: Store, keys: Sequence[str]) -> None:
        self._store, self._keys, self._lock = store, keys, threading.Lock()
        self._list()

    def __contains__(self, key: str) -> bool:
        return key in self._absent

    def still(self, key: str) -> bool:
        """Return whether a listing of the last seconds showed no object of this key."""
        with self._lock:
            if self._absent and time.monotonic() - self._listed_at > GOOD_FOR_S:
                self._list()
            return key in self._absent

    def _list(self) -> None:
        self._listed_at = time.monotonic()
        self._absent = absent_keys(self._store, self._keys)
