"""The ledger: a batch's state as objects in the store beside the output; the broker is never asked.

    <root>/batches/<id>/batch.json            what was asked, and how far planning has come
                       /plan/00042.jsonl      the photos of a shard
                       /reports/00042.jsonl   what became of them; a shard is done once this is there
                       /digest.jsonl          a line for each report, as far as they were read
                                              (`workers.ledger.report_cache`)
                       /attempts/00042/*.json workers that are at a shard, or died there (`workers.ledger.leases`)
                       /cancelled, /paused    markers
                       /looked.json           when the queue was last searched for its messages
    <root>/open/<id>                          URLs of batches that are not done (`workers.ledger.open_batches`)

The root is `<destination>/.apf`, or `<ledger URL>/<name of the destination>`. A .jsonl object starts with a header that
counts its lines: one with fewer was torn, and a torn report counts as none. A GET of a report's known name decides
whether a shard is done; a listing, which may lag on some stores, only makes it quick to see.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Literal, TypeVar

from pydantic import BaseModel

from workers.core.records import Batch, PhotoRef, ShardReport, ShortReport, parse
from workers.errors import LedgerError, NewerRecord, NotFound, StoreGone, TornPlan
from workers.ledger.jsonl import (
    DigestHeader,
    PlanHeader,
    read_lines,
    report_header,
    short_report,
    split_lines,
    whole_report,
)
from workers.store import Blob, S3Options, Store, canonical_url, child_url, open_store, parent_url

log = logging.getLogger(__name__)

#: With no more open shards than this their reports are asked for by name, and no listing is needed.
ASKED_BY_NAME = 32

#: Plans or reports that are read or written at once: each is small, so its time is the store's answer.
AT_ONCE = 16

_BATCH_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,99}")

Found = TypeVar("Found")
Asked = TypeVar("Asked")

#: Ways to stop a batch: for good, or until it is resumed.
Stop = Literal["cancelled", "paused"]
STOPS: tuple[Stop, ...] = ("cancelled", "paused")


def new_batch_id() -> str:
    """Return a new id. Ids sort by the time they were made, to the microsecond, as text."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}-{secrets.token_hex(3)}"


class Ledger:
    """The batches of one destination. Safe to share between threads.

    Besides what each method names, all of them raise StoreError when the store refuses.
    """

    def __init__(self, store: Store, prefix: str) -> None:
        self.store = store
        #: One plain name below the store's URL.
        self.prefix = prefix

    @property
    def url(self) -> str:
        return child_url(self.store.url, self.prefix)

    def batch_url(self, batch_id: str) -> str:
        """All that a message needs to name a batch; `open_batch` is its inverse."""
        return child_url(self.url, "batches", _checked(batch_id))

    def batches(self) -> list[str]:
        """Return the ids of all batches, in their order, which is that of their making where ids are our own."""
        ids = self.batch_ids()
        return [batch_id for batch_id, is_one in zip(ids, all_of(self.has_batch, ids), strict=True) if is_one]

    def batch_ids(self) -> list[str]:
        """As `batches`, with what is left of batches that were taken back; a page of 1,000 costs one request."""
        return sorted(name for name in self.store.folders(f"{self.prefix}/batches/") if _BATCH_ID.fullmatch(name))

    def latest(self) -> str | None:
        """Return the last of `batches`."""
        return next((batch_id for batch_id in reversed(self.batch_ids()) if self.has_batch(batch_id)), None)

    def write_batch(self, batch: Batch) -> None:
        self.put_json(self.key(batch.id, "batch.json"), batch)

    def has_batch(self, batch_id: str) -> bool:
        return self.store.head(self.key(batch_id, "batch.json")) is not None

    def read_batch(self, batch_id: str) -> Batch:
        """Return the batch's record.

        Raises:
            LedgerError: there is no such batch, or its record does not validate.
        """
        data = self.read(self.key(batch_id, "batch.json"))
        if data is None:
            raise LedgerError(
                f"there is no batch {batch_id!r} in {self.url}: `apf status` without a batch shows the last"
            )
        return parse(Batch, data, LedgerError, f"batch.json of {batch_id}")

    def sweep(self, batch_id: str) -> None:
        """Delete what is left under an id that has no batch: plans, reports, tries."""
        for info in list(self.store.list(self.key(batch_id, ""))):
            self.store.delete(info.key)

    def forget_batch(self, batch_id: str) -> None:
        """Take its record away, after which there is no such batch: what is left of it is never read."""
        self.store.delete(self.key(batch_id, "batch.json"))

    def write_plan(self, batch_id: str, shard: int, photos: Sequence[PhotoRef], *, after: str | None = None) -> None:
        """Write a shard's photos; `after` is the last photo of the listing before them."""
        header = PlanHeader(shard=shard, count=len(photos), after=after)
        self._put_lines(self._shard_key(batch_id, "plan", shard), header, photos)

    def read_plan(self, batch_id: str, shard: int) -> list[PhotoRef]:
        """Return the photos of a shard.

        Raises:
            TornPlan: there is no such plan, or it is torn or does not validate.
            NewerRecord: a newer version wrote it.
        """
        key = self._shard_key(batch_id, "plan", shard)
        data = self.read(key)
        if data is None:
            raise TornPlan(f"{key} is missing in {self.store.url}: shard {shard} was never planned, or was deleted")
        try:
            return read_lines(data, PlanHeader, PhotoRef, shard, key)[1]
        except NewerRecord:
            raise
        except LedgerError as error:
            raise TornPlan(str(error)) from error

    def has_plan(self, batch_id: str, shard: int) -> bool:
        """Return whether the shard's plan is there and whole; raises NewerRecord where a newer version wrote it."""
        try:
            self.read_plan(batch_id, shard)
        except NewerRecord:
            raise
        except LedgerError:
            return False
        return True

    def listed_after(self, batch_id: str, shard: int) -> str | None:
        """Return the last photo before the shard, in the listing that it was planned from; None where no plan says
        so.
        """
        key = self._shard_key(batch_id, "plan", shard)
        with suppress(LedgerError):  # torn
            if data := self.read(key):
                return read_lines(data, PlanHeader, PhotoRef, shard, key)[0].after
        return None

    def write_report(self, batch_id: str, report: ShardReport) -> None:
        """Write what became of a shard, which makes the shard done."""
        key = self._shard_key(batch_id, "reports", report.shard)
        self._put_lines(key, report_header(report), report.photos)

    def read_report(self, batch_id: str, shard: int) -> ShardReport | None:
        """Return what became of a shard, or None while it is not done. A torn report is none: the shard runs again.

        Raises:
            NewerRecord: a newer version wrote it.
        """
        key = self._shard_key(batch_id, "reports", shard)
        data = self.read(key)
        with _none_where_torn():
            return whole_report(data, shard, key) if data is not None else None
        return None

    def read_short(self, batch_id: str, shard: int) -> ShortReport | None:
        """As `read_report`, without reading what it says of photos that did not fail."""
        key = self._shard_key(batch_id, "reports", shard)
        blob = self._get(key)
        with _none_where_torn():
            return short_report(blob.data, shard, key, blob.info.etag) if blob else None
        return None

    def has_report(self, batch_id: str, shard: int) -> bool:
        """Return whether the shard is done, by a GET of its report."""
        return self.read_short(batch_id, shard) is not None

    def reported_shards(self, batch_id: str) -> set[int]:
        """Return the shards whose reports a listing shows; it may lag behind `has_report`."""
        return set(self.listed_reports(batch_id))

    def listed_reports(self, batch_id: str, *, first: int = 0) -> dict[int, str]:
        """As `reported_shards`, with the reports' ETags; at least those of the first such shard and of all after it."""
        return dict(self._listed(batch_id, "reports", first))

    def read_digest(self, batch_id: str) -> list[ShortReport]:
        """Return what `write_digest` wrote; nothing where it was not written. Raises LedgerError where it is torn."""
        key = self.key(batch_id, "digest.jsonl")
        data = self.read(key)
        return [] if data is None else read_lines(data, DigestHeader, ShortReport, 0, key)[1]

    def has_newer_digest(self, batch_id: str) -> bool:
        """Return whether a newer version wrote it."""
        key = self.key(batch_id, "digest.jsonl")
        try:
            split_lines(self.read(key) or b"", DigestHeader, 0, key)
        except NewerRecord:
            return True
        except LedgerError:  # torn, or none
            return False
        return False

    def write_digest(self, batch_id: str, reports: Sequence[ShortReport]) -> None:
        header = DigestHeader(count=len(reports))
        self._put_lines(self.key(batch_id, "digest.jsonl"), header, reports)

    def stop(self, batch_id: str, how: Stop) -> None:
        """Mark the batch: workers finish the photos at hand and start no other shard of it."""
        self.store.put(self.key(batch_id, how), b"", content_type="text/plain")

    def clear_stop(self, batch_id: str) -> None:
        """Take the marks away; silent where there is none."""
        for how in STOPS:
            self.store.delete(self.key(batch_id, how))

    def stopped(self, batch_id: str) -> Stop | None:
        """How the batch was stopped, if it was."""
        return next((how for how in STOPS if self.store.head(self.key(batch_id, how)) is not None), None)

    def key(self, batch_id: str, *names: str) -> str:
        """Return the store's key of something that is kept for a batch."""
        return "/".join([self.prefix, "batches", _checked(batch_id), *names])

    def names(self, batch_id: str, prefix: str = "") -> list[str]:
        """List what is kept for a batch, by the names below it that start with `prefix`."""
        folder = self.key(batch_id, "")
        return [info.key.removeprefix(folder) for info in self.store.list(folder + prefix)]

    def _shard_key(self, batch_id: str, kind: str, shard: int) -> str:
        return self.key(batch_id, kind, f"{shard:05}.jsonl")

    def _listed(self, batch_id: str, kind: str, first: int) -> Iterator[tuple[int, str]]:
        # Names of six digits sort among those of five, and behind all that begin with a 0.
        before = self._shard_key(batch_id, kind, min(first - 1, 9999)) if first else ""
        for info in self.store.list(self.key(batch_id, kind, ""), start_after=before):
            number = info.key.rpartition("/")[2].partition(".")[0]
            if number.isdecimal():
                yield int(number), info.etag

    def read(self, key: str) -> bytes | None:
        """Return what lies under a key of `key`, or None."""
        blob = self._get(key)
        return blob.data if blob else None

    def _get(self, key: str) -> Blob | None:
        try:
            return self.store.get(key)
        except StoreGone:
            raise
        except NotFound:
            return None

    def put_json(self, key: str, record: BaseModel) -> None:
        """Write a record under a key of `key`."""
        self.store.put(key, record.model_dump_json(indent=1).encode(), content_type="application/json")

    def _put_lines(self, key: str, header: BaseModel, lines: Iterable[BaseModel]) -> None:
        text = "".join(record.model_dump_json() + "\n" for record in (header, *lines))
        self.store.put(key, text.encode(), content_type="application/jsonl")


def is_single(batch: Batch) -> bool:
    """Return whether the batch is of one shard and no more are to come, as an upload's is."""
    return batch.planned and batch.shards == 1


def all_of(do: Callable[[Asked], Found], asked: Sequence[Asked]) -> list[Found]:
    """Return what `do` gives for each, several at once."""
    if len(asked) < 2:
        return [do(one) for one in asked]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(do, asked))


def open_ledger(destination: str, *, ledger_url: str | None = None, s3: S3Options | None = None) -> Ledger:
    """Return the ledger of a destination: beside its objects, or below `ledger_url` under the destination's name.

    Raises:
        StoreError: a URL is malformed, or the destination's folder does not exist.
    """
    if ledger_url is None:
        return Ledger(open_store(destination, s3=s3), ".apf")
    return Ledger(open_store(ledger_url, s3=s3, create=True), _slug(canonical_url(destination)))


def ledger_url(destination: str, root: str | None = None) -> str:
    """Where the ledger of a destination lies, as the `url` of `open_ledger`'s answer; `root` is `APF_LEDGER_URL`."""
    if root is None:
        return child_url(canonical_url(destination), ".apf")
    return child_url(canonical_url(root), _slug(canonical_url(destination)))


def open_batch(batch_url: str, *, s3: S3Options | None = None) -> tuple[Ledger, str]:
    """Return the ledger and id that `Ledger.batch_url` was made from.

    Raises:
        LedgerError: the URL is no batch's.
        StoreError: its folder does not exist.
    """
    store_url, names = parent_url(canonical_url(batch_url), 3)
    if "://" not in store_url or len(names) != 3 or names[1] != "batches":
        raise LedgerError(f"{batch_url!r} is no batch's URL: it should end in .apf/batches/<id>")
    prefix, _, batch_id = names
    return Ledger(open_store(store_url, s3=s3), prefix), _checked(batch_id)


def _slug(url: str) -> str:
    """Return a plain name for a destination: legible, and told apart by a hash."""
    legible = re.sub(r"[^A-Za-z0-9]+", "-", url).strip("-")[-48:].strip("-")
    return f"{legible}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"


def _checked(batch_id: str) -> str:
    if not _BATCH_ID.fullmatch(batch_id):
        raise LedgerError(f"{batch_id!r} is no batch's id: it looks like {new_batch_id()}")
    return batch_id


@contextmanager
def _none_where_torn() -> Iterator[None]:
    """Leave the block where a report is torn; raises NewerRecord."""
    try:
        yield
    except NewerRecord:
        raise
    except LedgerError as error:
        log.warning("report taken as missing: %s", error)
