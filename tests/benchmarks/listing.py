"""A library that is only listed: as many made-up photos as are wanted, a page at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from workers.store import ObjectInfo
from workers.store.s3 import PAGE_KEYS

#: Of a photo of just under one megapixel, as the planner estimates it: 128 make a shard.
PHOTO_BYTES = 349_000
LAST_MODIFIED = datetime(2026, 1, 1, tzinfo=UTC)


def key_of(number: int) -> str:
    """Keys ascend with their numbers; a thousand in each folder."""
    return f"2026/{number // 1000:06}/photo-{number % 1000:03}.jpg"


def number_of(key: str) -> int:
    """The inverse of `key_of`; -1 for the empty key, before all others."""
    return int(key[5:11]) * 1000 + int(key[18:21]) if key else -1


class FakeListing:
    """A store whose `list` makes objects up; all else that a store can do is not there."""

    def __init__(self, keys: int, url: str) -> None:
        self.keys = keys
        self.url = url
        self.pages = 0

    def list(self, prefix: str = "", start_after: str = "", **_: object) -> Iterator[ObjectInfo]:
        first = number_of(start_after) + 1
        for start in range(first, self.keys, PAGE_KEYS):
            self.pages += 1
            yield from page(start, min(start + PAGE_KEYS, self.keys))

    def __getattr__(self, name: str) -> Any:
        raise NotImplementedError(f"nobody should need {name} of a source that is planned")


def page(start: int, stop: int) -> Sequence[ObjectInfo]:
    """The objects of one answer."""
    return [
        ObjectInfo(key=key_of(number), size=PHOTO_BYTES, etag=f"{number:032x}", last_modified=LAST_MODIFIED)
        for number in range(start, stop)
    ]
