"""What the routes of one server work with."""

from __future__ import annotations

import threading
from asyncio import Semaphore
from contextlib import suppress
from dataclasses import dataclass, field

from celery import Celery

from producer.client import Client
from producer.server.board import StatusBoard
from producer.server.idempotency import Requests
from producer.server.index import BatchIndex
from producer.server.index_sync import IndexSync
from producer.server.limits import Counters, Limits
from producer.server.problems import NoSuchBatch
from producer.server.scratch import Scratch
from producer.server.settings import ServeSettings
from producer.server.tokens import Grant, Keyring
from workers.batches.create import find_batch, find_ledger
from workers.broker.app import make_app
from workers.broker.client import Broker
from workers.config.access import check_allowed
from workers.config.settings import Settings
from workers.errors import LedgerError, NotAllowed, StoreError
from workers.ledger.batch_ledger import Ledger, all_of
from workers.status.batch_status import BatchSummary
from workers.store import Store, canonical_url, open_store, overlap

#: Estimates and erasures at once.
LONG_ACTS = 4


@dataclass(frozen=True)
class Services:
    """All of it; made by `make_services`."""

    settings: Settings
    serve: ServeSettings
    keyring: Keyring
    counters: Counters
    limits: Limits
    requests: Requests
    client: Client
    celery: Celery
    broker: Broker
    board: StatusBoard
    index: BatchIndex
    sync: IndexSync
    #: The place of all ledgers.
    root: Store
    #: Where photos of `POST /v1/protect` lie for the moment; None: that route is closed.
    scratch: Scratch | None
    #: The process is to end: streams stop, and nobody is told that it is ready.
    stopping: threading.Event = field(default_factory=threading.Event)
    #: A place for each stream of events, and for each photo that is protected while somebody waits.
    streams: Semaphore = field(default_factory=Semaphore)
    protecting: Semaphore = field(default_factory=Semaphore)
    #: Places for acts that read a whole source or ledger.
    long_acts: threading.Semaphore = field(default_factory=lambda: threading.BoundedSemaphore(LONG_ACTS))

    def find(self, grant: Grant, batch_id: str, destination: str | None = None) -> tuple[Ledger, BatchSummary]:
        """Return a batch that the grant's holder may see, and where it stands.

        Raises:
            NoSuchBatch: there is none.
            StoreError: the store refuses.
        """
        ledger = self._ledger(batch_id, destination)
        try:
            summary = self.board.summary(ledger, batch_id)
        except LedgerError as error:
            if grant.tenants is None and ledger.has_batch(batch_id):
                raise  # a record that cannot be read says not whose it is
            raise NoSuchBatch(batch_id) from error
        if not grant.may_see(summary.batch.tenant):
            raise NoSuchBatch(batch_id)
        return ledger, summary

    def checked(self, url: str, what: str) -> str:
        """Return a URL that requests may name, canonical; raises NotAllowed, StoreError."""
        place = canonical_url(url)
        check_allowed(place, self.settings.allowed, what=what)
        # Others' photos lie there for the moment, and everybody's records.
        scratch = self.serve.scratch_url
        if (scratch and overlap(place, scratch)) or _lies_in(place, str(self.settings.ledger_root)):
            raise NotAllowed(f"{what} {place} is a place of the server's own: name one for photos alone")
        return place

    def find_ledger(self, destination: str) -> Ledger:
        """Return the ledger of a destination's new batches."""
        return find_ledger(destination, self.settings)

    def _ledger(self, batch_id: str, destination: str | None) -> Ledger:
        with suppress(LedgerError, StoreError, NotAllowed):
            if destination is not None:
                return find_batch(self.checked(destination, "destination"), batch_id, self.settings)[0]
        places = [] if destination is not None else self._places(batch_id)
        if not places:
            raise NoSuchBatch(batch_id)
        return Ledger(self.root, places[0])

    def _places(self, batch_id: str) -> list[str]:
        """Return the ledgers with a batch of this id: by the index, or by asking each."""
        if known := self.index.places_of(batch_id):
            return known

        def here(place: str) -> str | None:
            with suppress(LedgerError):
                return place if Ledger(self.root, place).has_batch(batch_id) else None
            return None

        asked = [place for place in self.root.folders("") if not place.startswith(".")]
        return [place for place in all_of(here, asked) if place]


def _lies_in(place: str, root: str) -> bool:
    with suppress(NotAllowed):
        check_allowed(place, (canonical_url(root),), what="place")
        return True
    return False


def make_services(settings: Settings, serve: ServeSettings) -> Services:
    """Return the services of a server; raises SettingsError."""
    secret = serve.tokens.get_secret_value() if serve.tokens else ""
    counters = Counters(settings)
    root = open_store(str(settings.ledger_root), s3=settings.s3, create=True)
    index = BatchIndex()
    client = Client(settings)
    celery = make_app(settings)
    # Of a photo that is protected while somebody waits nothing stays, in the audit log neither.
    unlogged = Client(settings, actor="")
    scratch = Scratch(canonical_url(serve.scratch_url), unlogged, settings) if serve.scratch_url else None
    hidden = scratch.place if scratch else ""
    return Services(
        settings=settings,
        serve=serve,
        keyring=Keyring(secret, serve.tokens_file),
        counters=counters,
        limits=Limits(counters, serve),
        requests=Requests(root, counters),
        client=client,
        celery=celery,
        broker=Broker(celery),
        board=StatusBoard(serve.status_every_s),
        index=index,
        sync=IndexSync(root, index, serve.index_every_s, settings.s3, left_out=hidden),
        root=root,
        scratch=scratch,
        streams=Semaphore(serve.streams),
        protecting=Semaphore(serve.protect_at_once),
    )
