"""Stores of photos and ledgers: a folder, a bucket, or this process's memory, behind one interface."""

from __future__ import annotations

from pathlib import Path

from workers.store.base import AFTER_ALL, RESERVED, Blob, LeftOut, ObjectInfo, S3Options, Store
from workers.store.urls import canonical_url, child_url, inside, is_bucket, overlap, parent_url

__all__ = [
    "AFTER_ALL",
    "RESERVED",
    "Blob",
    "LeftOut",
    "ObjectInfo",
    "S3Options",
    "Store",
    "canonical_url",
    "child_url",
    "inside",
    "is_bucket",
    "open_store",
    "overlap",
    "parent_url",
]


def open_store(url: str | Path, *, s3: S3Options | None = None, create: bool = False) -> Store:
    """Return the store at a folder, `file://`, `s3://` or `memory://` URL. Opening makes no request to S3.

    `create` makes a missing folder; a bucket is never made.

    Raises:
        StoreError: the URL is malformed, or its folder is missing (NotFound) or cannot be made.
    """
    url = canonical_url(url)
    scheme = url.partition(":")[0]
    if scheme == "file":
        from workers.store.local import FileStore  # noqa: PLC0415

        return FileStore(url, create=create)
    if scheme == "memory":
        from workers.store.memory import MemoryStore  # noqa: PLC0415

        return MemoryStore(url)
    # boto3 takes long to load: only users of S3 pay for it.
    from workers.store.s3 import S3Store  # noqa: PLC0415

    return S3Store(url, s3 or S3Options())
