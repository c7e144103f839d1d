"""The interface of a store: objects of bytes under string keys, with an ETag and a little metadata each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Literal, Protocol

from workers.errors import Changed, InvalidKey, StoreError

#: Keys under it are the system's own (the ledger); a listing shows them only when asked for them by prefix.
RESERVED = ".apf/"

#: The highest code point: with it at its end, `start_after` jumps over all keys that begin alike.
AFTER_ALL = "\U0010ffff"

#: S3's own limits, held by every store so that a batch can move between them.
MAX_KEY_BYTES = 1024
MAX_METADATA_BYTES = 2048

NO_METADATA: Mapping[str, str] = MappingProxyType({})

_METADATA_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
_METADATA_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?|")


@dataclass(frozen=True)
class ObjectInfo:
    """One object without its bytes."""

    #: Relative to the store's URL.
    key: str
    #: Bytes.
    size: int
    #: Without quotes; opaque, equal only for the same version of an object. Empty where a put was not told.
    etag: str
    #: Empty in listings.
    metadata: Mapping[str, str] = field(default_factory=lambda: NO_METADATA, hash=False)
    #: Since when the object is as it is, by the store's own clock (`Store.clock`); None in a put's answer.
    last_modified: datetime | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Blob:
    """One object with its bytes."""

    data: bytes
    info: ObjectInfo


@dataclass(frozen=True)
class LeftOut:
    """Something in a folder that no key names, or that may not be looked into."""

    #: Below the store's URL, with what is no UTF-8 escaped; of a folder it ends with a slash.
    key: str
    #: With its cure.
    reason: str
    #: "special" is no file: a pipe, a device, or a link to nothing.
    kind: Literal["file", "folder", "special"]


class Store(Protocol):
    """Objects under one URL. Safe to share between threads. Every method may raise Forbidden or StoreUnavailable."""

    #: Whether a listing may begin anywhere at the price of a page, which is far less than that of its keys' HEADs.
    lists_pages: bool

    @property
    def url(self) -> str:
        """The canonical URL; keys are relative to it."""

    def list(
        self, prefix: str = "", start_after: str = "", *, left_out: Callable[[LeftOut], None] | None = None
    ) -> Iterator[ObjectInfo]:
        """Objects whose key starts with `prefix` and is above `start_after`, ascending in UTF-8 byte order.

        Streamed. Keys under `.apf/` are left out unless the prefix starts with it.

        Args:
            left_out: told of what lies above `start_after` and is no object for a reason that a user can mend, between
                the objects around it; None has the log told.
        """

    def folders(self, prefix: str) -> Sequence[str]:
        """Return the names between `prefix`, which ends with a slash, and the next slash, of all keys that have
        both.
        """

    def head(self, key: str) -> ObjectInfo | None:
        """Return the object with its metadata, or None where there is none."""

    def get(self, key: str, *, etag: str | None = None, max_bytes: int | None = None) -> Blob:
        """Return the object's bytes.

        Raises:
            NotFound: there is no such object.
            Changed: `etag` is given and the object has another.
            ObjectTooLarge: the object is over `max_bytes`; its body was not read.
        """

    def start(self, key: str, count: int) -> bytes:
        """Return an object's first bytes, or all of a shorter one; raises NotFound."""

    def put(
        self,
        key: str,
        data: bytes,
        *,
        content_type: str = "application/octet-stream",
        metadata: Mapping[str, str] = NO_METADATA,
        over: str | None = None,
    ) -> ObjectInfo:
        """Write the whole object or nothing; replaces one of the same key. Metadata is printable ASCII.

        Args:
            over: replace no other version than the one with this ETag, and with "" none at all. Not every store keeps
                this promise.

        Raises:
            Changed: `over` is given, and the object is not as it says; some stores say so though it is.
            NoConditions: `over` is given, and the store does not know conditional writes.
        """

    def delete(self, key: str) -> None:
        """Remove the object; silent where there is none."""

    def prune(self, prefix: str) -> None:
        """Remove the folders below a prefix, and its own, that are empty; nothing where a store has none. Nobody may be
        writing there.
        """

    def clock(self) -> datetime:
        """Return what time the store thinks it is, with its zone."""


@dataclass(frozen=True)
class S3Options:
    """How to reach S3. An operator's setting: never part of a message."""

    #: None: AWS itself.
    endpoint_url: str | None = None
    #: None: what boto3's usual chain says.
    region: str | None = None
    #: "auto" is path style where an endpoint is set, and botocore's own choice on AWS.
    addressing_style: Literal["auto", "path", "virtual"] = "auto"
    #: None is "when_required" where an endpoint is set (CRC32 on every PUT breaks some), else "when_supported".
    checksums: Literal["when_required", "when_supported"] | None = None
    #: At least the number of threads that read and write at once.
    max_pool_connections: int = 32
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 60.0
    #: Tries of one request, the first included, with botocore's back-off in between.
    max_attempts: int = 4


def put_if_absent(store: Store, key: str, data: bytes) -> bool:
    """Write an object where there is none; False where there is one. Raises as `Store.put`."""
    try:
        store.put(key, data, over="")
    except Changed:
        return False
    return True


def check_key(key: str) -> None:
    """Raise InvalidKey for what no store can keep: empty, over 1024 bytes, or not Unicode text."""
    if not key:
        raise InvalidKey("an object's key is empty")
    try:
        size = len(key.encode())
    except UnicodeEncodeError as error:
        raise InvalidKey(f"key {key!r} is not valid UTF-8: rename the object") from error
    if size > MAX_KEY_BYTES:
        raise InvalidKey(f"key {key[:80]!r}... has {size} bytes, over the {MAX_KEY_BYTES} that S3 allows")


def check_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of the metadata, when every store can keep it as it is.

    Raises:
        StoreError: a name is not lower-case letters, digits and hyphens, or a value is not printable ASCII.
    """
    for name, value in metadata.items():
        if not _METADATA_NAME.fullmatch(name):
            raise StoreError(f"metadata name {name!r}: use lower-case letters, digits and hyphens only")
        if not _METADATA_VALUE.fullmatch(value):
            raise StoreError(f"metadata {name} = {value!r}: use printable ASCII, with no space at either end")
    if sum(len(name) + len(value) for name, value in metadata.items()) > MAX_METADATA_BYTES:
        raise StoreError(f"metadata is over the {MAX_METADATA_BYTES} bytes that S3 allows")
    return dict(metadata)


def hidden(key: str, prefix: str) -> bool:
    """Return whether a listing with this prefix leaves the key out, as one of the system's own."""
    return key.startswith(RESERVED) and not prefix.startswith(RESERVED)
