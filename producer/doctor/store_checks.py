"""Check with a few small objects that a store behaves as batches need it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import urllib3

from producer.doctor.finding import Finding
from workers.config.settings import Settings
from workers.errors import Changed, Forbidden, NotFound, WorkerError
from workers.store import RESERVED, ObjectInfo, Store, is_bucket, open_store
from workers.store.base import put_if_absent
from workers.store.urls import file_path

#: Clocks further apart than this make tries look dead that live, and requests look forged to AWS at 15 minutes.
LARGEST_SKEW = timedelta(seconds=20)
#: Writers of one key that race in the test of conditional writes.
RACERS = 8
_LOOKED_FOR = "what another program writes to a destination within some seconds of an output may be replaced by it"


def examine_store(url: str, settings: Settings) -> list[Finding]:
    """Check listing, and where writing is allowed: writing, reading back, ETags, metadata, conditional writes, clock.

    What it writes lies under `.apf/doctor/`, where no listing of photos shows it, and is deleted again.
    """
    what = f"store {url}"
    try:
        store = open_store(url, s3=settings.s3)
        first = next(store.list(), None)
    except WorkerError as error:
        return [Finding(what, False, str(error))]
    with _no_folders_left(store):
        return _examined(store, what, first)


def examine_ledger(url: str, settings: Settings) -> Finding:
    """Return whether a ledger can be kept in a place, and whether its objects are published there."""
    what, key = f"ledger {url}", f".apf/doctor/{secrets.token_hex(8)}"
    try:
        store = open_store(url, s3=settings.s3)
        store.put(key, b"one")
        try:
            public = _anybody_reads(store, key)
        finally:
            store.delete(key)
    except NotFound as error:
        is_folder = not is_bucket(url)
        return Finding(what, is_folder, "a folder that the first batch makes" if is_folder else str(error))
    except Forbidden as error:
        beside = settings.ledger_root is None
        return Finding(what, beside, f"writing is refused{', so none is kept here' if beside else ''}: {error}")
    except WorkerError as error:
        return Finding(what, False, str(error))
    if public:
        cure = "names, tenants and callbacks are published: set APF_LEDGER_URL to a bucket that is not"
        return Finding(what, False, f"anybody can read what lies here, without a key: {cure}")
    return Finding(
        what, True, "can be written, and is not read without a key" if public is not None else "can be written"
    )


def _anybody_reads(store: Store, key: str) -> bool | None:
    """Return whether a bucket gives an object without a key; None: it could not be tried."""
    if not store.url.startswith("s3://"):
        return None
    from workers.store.s3 import S3Store  # noqa: PLC0415  open_store has loaded it

    if not isinstance(store, S3Store):
        return None
    try:
        answer = urllib3.request("GET", store.unsigned_url(key), timeout=5, retries=False)
    except urllib3.exceptions.HTTPError:
        return None
    return answer.status == 200 and answer.data == b"one"


def _examined(store: Store, what: str, first: ObjectInfo | None) -> list[Finding]:
    found = [Finding(what, True, f"can be listed; first key {first.key!r}" if first else "can be listed; empty")]
    key = f".apf/doctor/{secrets.token_hex(8)}"
    try:
        store.put(key, b"one", metadata={"apf-doctor": "one"})
    except Forbidden as error:
        found += _checksums(store, what, True, "not tried, as writing is refused")
        return [*found, Finding(f"{what} writing", True, f"refused, so it serves as a source alone: {error}")]
    except WorkerError as error:
        found += _checksums(store, what, False, "a PUT with it fails")
        return [*found, Finding(f"{what} writing", False, str(error))]
    found += _checksums(store, what, True, "a PUT with it works")
    try:
        return [*found, *_tried(store, key, what)]
    except WorkerError as error:
        return [*found, Finding(f"{what} reading back", False, str(error))]
    finally:
        with suppress(WorkerError):
            store.delete(key)


@contextmanager
def _no_folders_left(store: Store) -> Iterator[None]:
    """Take away the folders that a store of files makes for its objects. Buckets have none."""
    if not store.url.startswith("file:"):
        yield
        return
    own = file_path(store.url) / RESERVED
    was_there = own.exists()
    try:
        yield
    finally:
        # Where there was a ledger, a worker may be about to write into the folders that the store shares.
        ours = [own / "doctor"] if was_there else [*own.glob("*/*"), *own.glob("*"), own]
        for folder in ours:
            with suppress(OSError):  # not there, or not empty: in other use by now
                folder.rmdir()


def _checksums(store: Store, what: str, ok: bool, tried: str) -> Iterator[Finding]:
    """How PUTs to a bucket are told to carry checksums; a folder knows none."""
    if not store.url.startswith("s3://"):
        return
    from workers.store.s3 import S3Store  # noqa: PLC0415  open_store has loaded it

    if isinstance(store, S3Store):
        config: Any = store._client.meta.config  # what botocore does, not what we meant it to
        mode = config.request_checksum_calculation
        why = "as on AWS" if mode == "when_supported" else "as for APF_S3_ENDPOINT_URL"
        cure = ""
        if not ok and mode == "when_supported":
            cure = ": if the store is not AWS, name it in APF_S3_ENDPOINT_URL, and no CRC32 is sent"
        yield Finding(f"{what} checksums", ok or not cure, f"{mode}, {why}; {tried}{cure}")


def _tried(store: Store, key: str, what: str) -> Iterator[Finding]:
    blob = store.get(key)
    whole = blob.data == b"one" and blob.info.metadata.get("apf-doctor") == "one"
    yield Finding(
        f"{what} writing", whole, "what is written is read back" if whole else "gives back other bytes or metadata"
    )
    yield _etags(store, key, blob.info.etag, what)
    listed = any(info.key == key for info in store.list(".apf/doctor/"))
    yield Finding(
        f"{what} listing", True, "shows a new object at once" if listed else "lags: reports are asked for by name"
    )
    yield _conditional(store, what)
    yield _clock(store, what)


def _etags(store: Store, key: str, first: str, what: str) -> Finding:
    """Return a photo that changes between planning and reading must be noticed."""
    store.put(key, b"two", metadata={"apf-doctor": "two"})
    head = store.head(key)
    if not first or head is None or head.etag == first:
        return Finding(f"{what} ETags", False, "stay the same when an object changes: changed photos go unnoticed")
    with suppress(Changed):
        store.get(key, etag=first)
        return Finding(f"{what} ETags", False, "a GET for an older version gives the newer one: use another store")
    return Finding(f"{what} ETags", True, "follow an object's bytes")


def _conditional(store: Store, what: str) -> Finding:
    """Return whether exactly one of several writers of a new key wins; else a look before each output has to do."""
    check = f"{what} conditional writes"
    key = f".apf/doctor/{secrets.token_hex(8)}"
    try:
        with ThreadPoolExecutor(RACERS) as pool:
            won = sum(pool.map(lambda _: put_if_absent(store, key, b"x"), range(RACERS)))
    except WorkerError as error:
        return Finding(check, True, f"not supported: {_LOOKED_FOR} ({error})")
    finally:
        with suppress(WorkerError):
            store.delete(key)
    if won == 1:
        return Finding(check, True, f"one of {RACERS} writers of a new key won")
    return Finding(check, True, f"{won} of {RACERS} writers of a new key won, so they are not kept: {_LOOKED_FOR}")


def _clock(store: Store, what: str) -> Finding:
    skew = abs(datetime.now(UTC) - store.clock())
    ok = skew < LARGEST_SKEW
    return Finding(
        f"{what} clock",
        ok,
        f"{skew.total_seconds():.0f} s from this machine's" + ("" if ok else ": set both by NTP"),
    )
