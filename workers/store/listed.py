"""A destination is listed once before a shard: outputs that are not there need not be asked for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from workers.errors import StoreError
from workers.store.base import Store

#: For fewer keys a listing is not worth its price, which is that of a dozen HEADs on AWS.
WORTH_LISTING = 8
#: No more than a page is listed: where other objects fill it, the rest is asked for one by one.
PAGE = 1000


def absent_keys(store: Store, keys: Sequence[str]) -> frozenset[str]:
    """Those of the keys that are known to have no object; none where a listing saves no requests.

    That is as of now: a listing may lag, and others may write. Who skips a HEAD for it must be able to do without.
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
