"""What the routes of one server work with."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus

from celery import Celery

from producer.client import Client
from producer.server.board import StatusBoard
from producer.server.engine import Engine
from producer.server.idempotency import Requests
from producer.server.index import BatchIndex
from producer.server.index_sync import IndexSync
from producer.server.limits import Counters, Limits
from producer.server.places import Places, long_act_places, protect_places, stream_places
from producer.server.problems import NoSuchBatch, Problem
from producer.server.readiness import Readiness
from producer.server.scratch import Scratch
from producer.server.settings import ServeSettings
from producer.server.tokens import Grant, Keyring
from workers.batches.create import find_batch, find_ledger
from workers.broker.app import make_app
from workers.broker.client import Broker
from workers.config.access import check_allowed
from workers.config.settings import Settings
from workers.errors import InvalidKey, LedgerError, NotAllowed, NotFound, StoreError
from workers.ledger.batch_ledger import Ledger, all_of, open_batch
from workers.ledger.open_batches import OPEN
from workers.status.batch_status import BatchSummary
from workers.store import Store, canonical_url, open_store, overlap

#: Ledgers that are asked for a batch of which nothing but its id is known.
ASKED_ONE_BY_ONE = 200

#: Seconds that a server waits for an answer of the store.
STORE_PATIENCE_S = 8.0


@dataclass(frozen=True)
class Services:
    """All of it; made by `make_services`."""

    settings: Settings
    serve: ServeSettings
    keyring: Keyring
    counters: Counters
    limits: Limits
    requests: Requests
    #: None where there is no queue.
    own_client: Client | None
    #: A worker beside the server, where there is no queue.
    engine: Engine | None
    celery: Celery
    broker: Broker
    board: StatusBoard
    index: BatchIndex
    sync: IndexSync
    #: The place of all ledgers.
    root: Store
    #: Where photos of `POST /v1/protect` lie for the moment; None: that route is closed.
    scratch: Scratch | None
    readiness: Readiness
    #: A place for each stream of events, and for each photo that is protected while somebody waits.
    streams: Places
    protecting: Places
    #: Places for acts that read a whole source or ledger.
    long_acts: Places = field(default_factory=long_act_places)
    #: The process is to end: streams stop, and nobody is told that it is ready.
    stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def client(self) -> Client:
        """What submits batches; raises Problem (503) where there is no queue."""
        self.check_queue()
        assert self.own_client  # noqa: S101  as just checked
        return self.own_client

    def check_queue(self) -> None:
        """Raise Problem (503) where there is no queue that others work on."""
        if self.own_client is None:
            raise Problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "this server has no queue, and protects single photos alone (POST /v1/protect): set APF_BROKER_URL",
            )

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
        """Return the ledgers with a batch of this id: by the index, as an open one, or by asking each.

        Another server's may not be in the index yet. Of many ledgers each is not asked: whoever has the destination, as
        every answer to a submission names it, need not be.
        """
        if known := self.index.places_of(batch_id):
            return known
        with suppress(NotFound, LedgerError, InvalidKey, UnicodeDecodeError):
            url = self.root.get(OPEN + batch_id, max_bytes=4096).data.decode()
            ledger, _ = open_batch(url, s3=self.settings.s3)
            return [ledger.prefix] if ledger.store.url == self.root.url else []

        def here(place: str) -> str | None:
            with suppress(LedgerError):
                return place if Ledger(self.root, place).has_batch(batch_id) else None
            return None

        asked = [place for place in self.root.folders("") if not place.startswith(".")]
        return [place for place in all_of(here, asked) if place] if len(asked) <= ASKED_ONE_BY_ONE else []


def _lies_in(place: str, root: str) -> bool:
    with suppress(NotAllowed):
        check_allowed(place, (canonical_url(root),), what="place")
        return True
    return False


def make_services(settings: Settings, serve: ServeSettings) -> Services:
    """Return the services of a server; raises SettingsError."""
    # Four tries of this are half a minute: whoever asks over HTTP hears of a store that hangs before they give up.
    settings = settings.model_copy(update={"s3_read_timeout_s": min(settings.s3_read_timeout_s, STORE_PATIENCE_S)})
    secret = serve.tokens.get_secret_value() if serve.tokens else ""
    counters = Counters(settings)
    root = open_store(str(settings.ledger_root), s3=settings.s3, create=True)
    index = BatchIndex()
    client = Client(settings) if settings.broker_url else None
    engine = None if client else Engine()
    celery = make_app(settings)
    # Of a photo that is protected while somebody waits nothing stays, in the audit log neither.
    submitter = client.acting_for("") if client else engine
    scratch = (
        Scratch(canonical_url(serve.scratch_url), submitter, settings) if serve.scratch_url and submitter else None
    )
    hidden = scratch.place if scratch else ""
    return Services(
        settings=settings,
        serve=serve,
        keyring=Keyring(secret, serve.tokens_file),
        counters=counters,
        limits=Limits(counters, serve),
        requests=Requests(root, counters),
        own_client=client,
        engine=engine,
        celery=celery,
        broker=Broker(celery),
        board=StatusBoard(serve.status_every_s),
        index=index,
        sync=IndexSync(root, index, serve.index_every_s, settings.s3, left_out=hidden),
        root=root,
        scratch=scratch,
        readiness=Readiness(counters, root),
        streams=stream_places(serve),
        protecting=protect_places(serve),
    )
