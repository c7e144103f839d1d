"""The place where photos of `POST /v1/protect` lie for the moment, and how they are done with and swept away.

    <APF_SERVE_SCRATCH_URL>/in/<random>.jpg      as it came, of whatever format
                           /out/<random>.jpg     protected

Each is a batch of its own on the interactive lane, deleted with its records once it is answered. What a server that
died has left is swept away by the others.
"""

from __future__ import annotations

import logging
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from producer.client import Client
from producer.server.engine import Engine
from workers.batches.create import find_ledger
from workers.config.settings import Settings
from workers.core.backoff import poll_pauses
from workers.core.clock import now
from workers.core.records import OnWeak, Outcome, PhotoReport
from workers.errors import LedgerError, StoreError, WorkerError
from workers.ledger.batch_ledger import Ledger
from workers.ledger.lifecycle import cancel
from workers.store import Blob, child_url, open_store
from workers.store.output_metadata import BATCH, OUTCOME, RECIPE

log = logging.getLogger(__name__)

#: A worker goes by the bytes; without a suffix it would look whether they are a photo at all, and say less.
SUFFIX = ".jpg"
#: Longer than any request takes: what is older was left by a server that died.
LEFT = timedelta(hours=1)
LONGEST_POLL_S = 1.0


class NotInTime(WorkerError):
    """Raised when no worker has done the photo in time. It was taken back."""

    transient = True


class NotProtected(WorkerError):
    """Raised when a photo cannot be protected, for a reason of its own."""


@dataclass(frozen=True)
class Protected:
    """A photo's output, and what became of it."""

    photo: Blob
    report: PhotoReport
    recipe_id: str


class Scratch:
    """Photos that somebody waits for. Safe to share between threads."""

    def __init__(self, url: str, submitter: Client | Engine, settings: Settings) -> None:
        """Raise StoreError where the place cannot be opened."""
        self._in, self._out = child_url(url, "in"), child_url(url, "out")
        self._submitter, self._settings = submitter, settings
        self._sources = open_store(self._in, s3=settings.s3, create=True)
        self._outputs = open_store(self._out, s3=settings.s3, create=True)
        self._ledger: Ledger = find_ledger(self._out, settings)

    @property
    def place(self) -> str:
        """The name of its ledger below the ledgers' root: its batches are in no list."""
        return self._ledger.prefix

    def protect(
        self,
        data: bytes,
        *,
        recipe: str,
        tenant: str,
        on_weak: OnWeak,
        no_face: Literal["copy", "skip"],
        timeout_s: float,
    ) -> Protected:
        """Return the protected photo; all that was kept of it for the moment is deleted.

        Raises:
            NotProtected: it cannot be protected.
            NotInTime: it took longer than `timeout_s`.
            WorkerError: queue or store do not answer.
        """
        key = f"{secrets.token_hex(16)}{SUFFIX}"
        batch = ""
        deadline = time.monotonic() + timeout_s
        try:
            self._sources.put(key, data)
            batch = self._submitter.submit(
                self._in, self._out, photos=[key], recipe=recipe, tenant=tenant, on_weak=on_weak, no_face=no_face
            ).batch
            report = self._report(batch, deadline, timeout_s)
            if report.outcome is Outcome.no_face and no_face == "skip":
                raise NotProtected("no face was found, and such a photo is not wanted back: ask with no_face=copy")
            if report.outcome not in (Outcome.protected, Outcome.no_face):
                raise NotProtected(report.reason or "it has no output, and no worker said why: try again")
            return self._checked(key, batch, report)
        finally:
            self._clear(key, batch)

    def sweep(self) -> None:
        """Delete what servers that died have left; raises StoreError."""
        for store in (self._sources, self._outputs):
            for info in store.list():
                if info.last_modified is not None and now() - info.last_modified > LEFT:
                    store.delete(info.key)
        for batch in self._ledger.batch_ids():
            with suppress(ValueError):  # an id of somebody's own: none of ours
                made = datetime.strptime(batch[: len("20260131-235959")], "%Y%m%d-%H%M%S").replace(tzinfo=UTC)
                if now() - made > LEFT:
                    self._forget(batch)
                    self._ledger.store.prune(self._ledger.key(batch, ""))

    def _report(self, batch: str, deadline: float, timeout_s: float) -> PhotoReport:
        for pause_s in poll_pauses(LONGEST_POLL_S):
            report = self._ledger.read_report(batch, 0)
            if report and report.photos:
                return report.photos[0]
            if time.monotonic() + pause_s > deadline:
                break
            time.sleep(pause_s)
        raise NotInTime(
            f"the photo was not protected within {timeout_s:g} s, and was deleted: start more workers, or submit it by "
            "POST /v1/batches and ask for it later"
        )

    def _checked(self, key: str, batch: str, report: PhotoReport) -> Protected:
        """Return the output, which has to say itself that it is this batch's."""
        blob = self._outputs.get(key)
        found = blob.info.metadata
        if found.get(BATCH) != batch or found.get(OUTCOME) != report.outcome.value:
            raise NotProtected("what lies where the output should be is none of this photo's: try again")
        return Protected(blob, report, found.get(RECIPE, ""))

    def _clear(self, key: str, batch: str) -> None:
        """Delete all of it, as well as may be: the rest is swept away later."""
        try:
            if batch:
                self._forget(batch)
            self._sources.delete(key)
            self._outputs.delete(key)
        except (StoreError, LedgerError) as error:
            log.warning("what was kept of a photo is deleted later: %s", error)

    def _forget(self, batch: str) -> None:
        with suppress(LedgerError):  # its record is gone already, and what a slow worker wrote is not
            # A worker that is at it ends, and one that comes later finds no batch.
            cancel(self._ledger, self._ledger.read_batch(batch), self._settings)
        self._ledger.forget_batch(batch)
        self._ledger.sweep(batch)
