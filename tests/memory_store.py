"""A store in memory: behaves as S3, without a network. Where tests run, `memory://name/prefix` opens it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from workers.errors import Changed, NotFound, ObjectTooLarge
from workers.store import OTHERS
from workers.store.base import NO_METADATA, Blob, LeftOut, ObjectInfo, check_key, check_metadata, hidden
from workers.store.urls import SCHEMES, bucket_and_prefix


@dataclass(frozen=True)
class _Object:
    data: bytes
    etag: str
    metadata: Mapping[str, str]
    changed: datetime


#: Objects by name of the store and full key; lives as long as the process.
_OBJECTS: dict[str, dict[str, _Object]] = {}
_LOCK = threading.RLock()


class MemoryStore:
    """Objects of `memory://name/prefix`. Two stores of one name share their objects."""

    lists_pages = False

    def __init__(self, url: str) -> None:
        self.url = url
        name, prefix = bucket_and_prefix(url)
        self._root = f"{prefix}/" if prefix else ""
        with _LOCK:
            self._objects = _OBJECTS.setdefault(name, {})

    def list(
        self, prefix: str = "", start_after: str = "", *, left_out: Callable[[LeftOut], None] | None = None
    ) -> Iterator[ObjectInfo]:
        full, after = self._root + prefix, start_after.encode()
        with _LOCK:
            found = {k.removeprefix(self._root): v for k, v in self._objects.items() if k.startswith(full)}
        for key in sorted(found, key=str.encode):
            if key.encode() > after and not hidden(key, prefix):
                one = found[key]
                yield ObjectInfo(key=key, size=len(one.data), etag=one.etag, last_modified=one.changed)

    def folders(self, prefix: str) -> Sequence[str]:
        below = (info.key.removeprefix(prefix) for info in self.list(prefix))
        return list(dict.fromkeys(key.partition("/")[0] for key in below if "/" in key))

    def head(self, key: str) -> ObjectInfo | None:
        check_key(key)
        found = self._objects.get(self._root + key)
        if found is None:
            return None
        return _info(key, found)

    def get(self, key: str, *, etag: str | None = None, max_bytes: int | None = None) -> Blob:
        check_key(key)
        found = self._objects.get(self._root + key)
        if found is None:
            raise NotFound(f"{self.url} has no object {key!r}")
        if etag is not None and etag != found.etag:
            raise Changed(f"{key!r} in {self.url} has changed since it was planned: run the command again")
        if max_bytes is not None and len(found.data) > max_bytes:
            raise ObjectTooLarge(f"{key!r} in {self.url} has {len(found.data)} bytes, over the limit of {max_bytes}")
        return Blob(data=found.data, info=_info(key, found))

    def start(self, key: str, count: int) -> bytes:
        return self.get(key).data[:count]

    def put(
        self,
        key: str,
        data: bytes,
        *,
        content_type: str = "application/octet-stream",
        metadata: Mapping[str, str] = NO_METADATA,
        over: str | None = None,
    ) -> ObjectInfo:
        check_key(key)
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        new = _Object(data=bytes(data), etag=etag, metadata=check_metadata(metadata), changed=self.clock())
        with _LOCK:
            there = self._objects.get(self._root + key)
            if over is not None and over != (there.etag if there else ""):
                raise Changed(f"{key!r} in {self.url} was written to meanwhile")
            self._objects[self._root + key] = new
        return ObjectInfo(key=key, size=len(data), etag=etag, metadata=new.metadata)

    def prune(self, prefix: str) -> None:
        """Do nothing: there are no folders."""

    def clock(self) -> datetime:
        return datetime.now(UTC)

    def delete(self, key: str) -> None:
        check_key(key)
        with _LOCK:
            self._objects.pop(self._root + key, None)

    def clear(self) -> None:
        """Remove every object under this store's URL."""
        with _LOCK:
            for key in [k for k in self._objects if k.startswith(self._root)]:
                del self._objects[key]


def _info(key: str, found: _Object) -> ObjectInfo:
    return ObjectInfo(
        key=key, size=len(found.data), etag=found.etag, metadata=found.metadata, last_modified=found.changed
    )


OTHERS["memory"] = MemoryStore
SCHEMES["memory"] = False
