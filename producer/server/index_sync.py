"""Keep the index as the ledger is: batches come by other servers, commands, schedules and events, too.

    <APF_LEDGER_URL>/.apf/serve/index.jsonl.gz    the index of the last server that read many; safe to delete

Open batches are listed often, which is cheap; whole ledgers as often as that takes little of the time.
"""

from __future__ import annotations

import gzip
import logging
import threading
import time
import zlib
from contextlib import suppress

from producer.server.index import BatchIndex, Entry
from workers.errors import LedgerError, NotFound, StoreError, WorkerError
from workers.ledger.batch_ledger import Ledger, all_of, open_batch
from workers.ledger.open_batches import OPEN
from workers.store import Store
from workers.store.base import S3Options

log = logging.getLogger(__name__)

KEPT = ".apf/serve/index.jsonl.gz"
#: Records that are read at once between two looks at the clock; so many new ones are worth keeping.
CHUNK, WORTH = 256, 256
#: At most this part of the time is spent on listing whole ledgers.
BUSY = 0.05


class IndexSync:
    """A thread that looks for batches until it is stopped."""

    def __init__(
        self, root: Store, index: BatchIndex, every_s: float, s3: S3Options | None = None, *, left_out: str = ""
    ) -> None:
        """`left_out`: the name of a ledger whose batches are nobody's business."""
        self._root, self._index, self._every_s, self._s3 = root, index, every_s, s3
        self._left_out = left_out
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="index", daemon=True)
        #: Ids under which there is no record that can be read.
        self._none: dict[str, set[str]] = {}
        self._whole_at = 0.0
        self._unkept = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(5)

    def _run(self) -> None:
        with suppress(WorkerError):
            self._take_kept()
        while not self._stop.is_set():
            try:
                self.look()
            except WorkerError as error:
                log.warning("the list of batches is as of some time ago: %s", error)
            except Exception:
                log.exception("the list of batches is as of some time ago, for a reason that nobody foresaw")
            self._stop.wait(self._every_s)

    def look(self) -> None:
        """Add what is new; raises StoreError."""
        open_ids = {info.key.removeprefix(OPEN) for info in self._root.list(OPEN)}
        found = all_of(self._opened, sorted(open_ids - self._index.known(open_ids)))
        self._index.add(entry for entry in found if entry)
        self._index.set_open(open_ids)
        if time.monotonic() >= self._whole_at:
            started = time.monotonic()
            self.look_at_all(open_ids)
            spent = time.monotonic() - started
            self._whole_at = time.monotonic() + spent * (1 - BUSY) / BUSY

    def look_at_all(self, open_ids: set[str]) -> None:
        """List every ledger; raises StoreError."""
        for place in self._root.folders(""):
            if place.startswith(".") or place == self._left_out or self._stop.is_set():
                continue
            ledger = Ledger(self._root, place)
            there, known = set(ledger.batch_ids()), self._index.ids(place)
            self._index.remove(place, known - there)
            new = sorted(there - known - self._none.get(place, set()), reverse=True)
            for start in range(0, len(new), CHUNK):
                if self._stop.is_set():
                    return
                self._read(ledger, new[start : start + CHUNK], open_ids)
        self._index.is_complete = True
        if self._unkept >= WORTH:
            self._keep()

    def _read(self, ledger: Ledger, ids: list[str], open_ids: set[str]) -> None:
        def read(batch_id: str) -> Entry | None:
            with suppress(LedgerError):
                return Entry.of(ledger, ledger.read_batch(batch_id), is_open=batch_id in open_ids)
            return None

        entries = all_of(read, ids)
        self._index.add(entry for entry in entries if entry)
        # An open one may be registered and not written yet.
        absent = {one for one, entry in zip(ids, entries, strict=True) if entry is None and one not in open_ids}
        self._none.setdefault(ledger.prefix, set()).update(absent)
        self._unkept += len(ids)

    def _opened(self, batch_id: str) -> Entry | None:
        with suppress(NotFound, LedgerError, UnicodeDecodeError):
            url = self._root.get(OPEN + batch_id, max_bytes=4096).data.decode()
            ledger, named = open_batch(url, s3=self._s3)
            # Others are from before APF_LEDGER_URL was set.
            if ledger.store.url == self._root.url and ledger.prefix != self._left_out:
                return Entry.of(ledger, ledger.read_batch(named))
        return None

    def _take_kept(self) -> None:
        with suppress(NotFound, OSError, EOFError, ValueError, TypeError, IndexError, zlib.error):
            self._index.take(gzip.decompress(self._root.get(KEPT).data).decode().splitlines())

    def _keep(self) -> None:
        data = gzip.compress("\n".join(self._index.lines()).encode(), compresslevel=1)
        with suppress(StoreError):
            self._root.put(KEPT, data, content_type="application/gzip")
            self._unkept = 0
