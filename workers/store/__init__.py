"""Stores of photos and ledgers: a folder or a bucket, behind one interface."""

from __future__ import annotations

from collections.abc import Callable
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


#: Stores of further schemes, whose URLs look like a bucket's, by what makes one; tests have one in memory.
OTHERS: dict[str, Callable[[str], Store]] = {}


def open_store(url: str | Path, *, s3: S3Options | None = None, create: bool = False) -> Store:
    """Return the store at a folder, `file://` or `s3://` URL. Opening makes no request to S3.

    `create` makes a missing folder; a bucket is never made.

    Raises:
        StoreError: the URL is malformed, or its folder is missing (NotFound) or cannot be made.
    """
    url = canonical_url(url)
    scheme = url.partition(":")[0]
    if scheme == "file":
        from workers.store.local import FileStore  # noqa: PLC0415

        return FileStore(url, create=create)
    if scheme in OTHERS:
        return OTHERS[scheme](url)
    # boto3 takes long to load: only users of S3 pay for it.
    from workers.store.s3 import S3Store  # noqa: PLC0415

    return S3Store(url, s3 or S3Options())
