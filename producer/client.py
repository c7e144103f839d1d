"""The client for a platform's own code: submit photos, poll, wait, cancel.

    client = Client()
    upload = client.submit("s3://uploads", "s3://public", photos=["ann/1.jpg"], tenant="ann")
    client.wait(upload.destination, upload.batch, timeout_s=30).protected

In private mode the keys are those of gradient files, and the destination holds perturbation files (`apf.private`).

Settings are the `APF_*` variables. Nothing of torch is loaded.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

from apf.recipe import DEFAULT_RECIPE
from workers.access.sources import find_source, is_source_of
from workers.batches.create import (
    AllForgotten,
    BatchOptions,
    check_ledger_place,
    check_not_forgotten,
    find_batch,
    find_ledger,
    new_batch,
    write_alone,
    write_new,
)
from workers.batches.plan import counted
from workers.batches.rescue import send_named
from workers.broker.app import make_app
from workers.broker.client import Broker
from workers.config.settings import Settings, load_settings
from workers.core.backoff import poll_pauses
from workers.core.records import BULK, INTERACTIVE, Batch, Lane, OnWeak, PhotoRef
from workers.errors import BadRequest, LedgerError, NotFound, SettingsError, StoreError, WorkerError
from workers.ledger.audit import local_actor, note_act, note_submission
from workers.ledger.batch_ledger import Ledger
from workers.ledger.forgotten import forgotten_among
from workers.ledger.lifecycle import cancel
from workers.ledger.open_batches import unregister
from workers.status.batch_status import BatchMonitor, BatchSummary
from workers.store import Store, canonical_url, open_store
from workers.store.media_types import has_photos_suffix

#: Photos that one call may name: they are kept in the batch's record, which every worker of the batch reads.
MAX_NAMED = 1000
#: HEAD requests at once.
HEADS = 16
#: Between two looks at a batch that is waited for.
LONGEST_POLL_S = 2.0

P = ParamSpec("P")
Answer = TypeVar("Answer")


class NotDone(TimeoutError):
    """Raised when a batch that is waited for is not done in time. It goes on all the same."""


@dataclass(frozen=True)
class Submitted:
    """A batch that is on its way. Keep `destination` and `batch`: they name it for `status`, `wait` and `cancel`."""

    batch: str
    #: As a canonical URL.
    destination: str
    #: How many photos it has; None where a worker has yet to list the source.
    photos: int | None
    #: Photos that were named and are not there, where that is no error.
    missing: tuple[str, ...] = ()
    #: Photos that were named and are left out, as they were forgotten (`workers.deletion.forget`).
    forgotten: tuple[str, ...] = ()


class Client:
    """Submits batches. Safe to share between threads; one for each process, made after it forks.

    Args:
        settings: None reads the `APF_*` variables.
        actor: whom the audit log names (`workers.ledger.audit`); None: this process' user and host;
            empty: it keeps no line of what this client does.

    Raises:
        SettingsError: APF_BROKER_URL is not set, or a variable does not validate.
    """

    def __init__(self, settings: Settings | None = None, *, actor: str | None = None) -> None:
        self._settings = settings or load_settings()
        self._actor = local_actor() if actor is None else actor
        if not self._settings.broker_url:
            raise SettingsError("a client needs a queue: set APF_BROKER_URL, for example to redis://localhost:6379/0")
        self._app = make_app(self._settings)
        self._broker = Broker(self._app)

    def acting_for(self, actor: str) -> Client:
        """Return this client with another `actor`."""
        other = copy(self)
        other._actor = actor
        return other

    def submit(
        self,
        source: str,
        destination: str,
        *,
        photos: Sequence[str] | None = None,
        recipe: str = DEFAULT_RECIPE,
        lane: Lane | None = None,
        tenant: str = "",
        callback: str | None = None,
        no_face: Literal["copy", "skip"] = "copy",
        overwrite: bool = False,
        on_weak: OnWeak = "publish",
        exclude: Sequence[str] = (),
        missing: Literal["refuse", "ignore"] = "refuse",
        batch_id: str | None = None,
        private: bool = False,
        include_forgotten: bool = False,
    ) -> Submitted:
        """Have photos protected. When it returns, the batch is in the ledger and its messages are in the queue.

        Where it raises, nothing was submitted; only where the store fails in the middle that may be in doubt, and a
        call with the same `batch_id` settles it. Blocks for some requests to store and Redis; where Redis is down, for
        some seconds, and where it hangs, for half a minute.

        Args:
            source: URL of a folder or prefix, as file:// or s3://, or of one photo.
            destination: where the protected photos go, under the same keys.
            photos: keys below `source`, at most `MAX_NAMED`; None for all there are, which a worker then lists.
            recipe: light, standard, strong, or a TOML file.
            lane: interactive overtakes bulk. None: interactive for named photos, bulk for a whole source.
            tenant: whose photos these are. Tenants get equal shares of a lane, or as their tokens' weights say.
            callback: URL that is told of the batch's end by a signed POST.
            no_face: what to do with a photo that has no face.
            overwrite: replace what no run wrote for the very same photo, too; else such a photo fails.
            on_weak: what to do with one of which a juror still knows a face: "publish" it, or have it "fail".
            exclude: patterns of what is left out of a whole source, as in .gitignore; those of its own `.apfignore`
                count, too. A photo that is named is never left out.
            missing: whether a named photo that is not there is an error, or is left out.
            batch_id: your own id of the batch, of letters, digits and `._-`: submitted again, it does nothing, and it
                is refused for other photos. Batches are listed in the order of their ids.
            private: the keys are of gradient files (without `photos`: of all `.safetensors` files of the source), and
                each becomes a perturbation file under its key.
            include_forgotten: protect photos that were forgotten, too; else they are left out, and named in the answer.

        Raises:
            BadRequest: no photos, too many, or a field that does not validate.
            NotFound: a named photo is not there, or neither is the source.
            SettingsError: the destination is in a bucket, and APF_LEDGER_URL is not set.
            CallbackError: the callback's URL is malformed, or holds a password.
            IsOutput: the source holds outputs of earlier batches. A named photo that is one fails by itself.
            AllForgotten: all photos that are named were forgotten.
            OtherRecipe: no photos are named, and an open batch into the destination has another recipe.
            BrokerError: Redis does not answer, or refuses.
            NotAllowed, OverlapError, RecipeError, StoreError, LedgerError: as `workers.batches.create.create_batch`.
        """
        if isinstance(photos, str):
            raise BadRequest(f"photos is the text {photos!r}: give a list of keys, [{photos!r}]")
        if private and (photo := next(filter(has_photos_suffix, photos or ()), None)) is not None:
            raise BadRequest(f"{photo!r} is a photo by its suffix, and private batches are of gradient files alone")
        if exclude and photos is not None:
            raise BadRequest("exclude is of a whole source: leave photos away, or name those that you mean")
        lane = lane or (BULK if photos is None else INTERACTIVE)
        # Redis first: where it is down, nothing has been written yet.
        queue = self._broker.choose_queue(lane, tenant)
        asked = BatchOptions(
            recipe=recipe,
            private=private,
            no_face=no_face,
            overwrite=overwrite,
            on_weak=on_weak,
            include_forgotten=include_forgotten,
            lane=lane,
            tenant=tenant,
            callback=callback,
            exclude=tuple(exclude),
            queue=queue,
        )
        if batch_id and (known := self._known(source, destination, photos, batch_id, private=private)):
            return known
        if photos is None:
            return self._submit_all(source, destination, asked, batch_id)
        return self._submit_named(source, destination, photos, asked, batch_id, missing)

    def status(self, destination: str, batch: str) -> BatchSummary:
        """Where a batch stands; the first look at a large one reads every report, later ones what is new.

        Raises:
            LedgerError: there is no such batch.
            StoreError: the store refuses.
        """
        return BatchMonitor(self._ledger(destination, batch), batch).poll()

    def wait(self, destination: str, batch: str, *, timeout_s: float | None = None) -> BatchSummary:
        """Until every photo has its outcome, or the batch is cancelled or paused; None waits for ever.

        Raises:
            NotDone: it took longer than `timeout_s`.
            LedgerError, StoreError: as `status`.
        """
        watch = BatchMonitor(self._ledger(destination, batch), batch)
        pauses = _Pauses(timeout_s, batch)
        while True:
            summary = watch.poll()
            if summary.done or summary.stopped:
                return summary
            time.sleep(pauses.next(summary))

    def cancel(self, destination: str, batch: str) -> None:
        """Shards that wait are dropped, running ones end early. Outputs that are there stay.

        Raises:
            LedgerError: there is no such batch.
            StoreError: the store refuses.
        """
        ledger = self._ledger(destination, batch)
        cancel(ledger, ledger.read_batch(batch), self._settings)  # an unknown batch is an error, not a marker
        if self._actor:
            note_act(ledger, self._actor, "cancel", batch=batch)

    def _note(self, ledger: Ledger, batch: Batch) -> None:
        if self._actor:
            note_submission(ledger, self._actor, batch, tenant=batch.tenant)

    def _ledger(self, destination: str, batch: str) -> Ledger:
        return find_batch(destination, batch, self._settings)[0]

    def _known(
        self, source: str, destination: str, photos: Sequence[str] | None, batch_id: str, *, private: bool
    ) -> Submitted | None:
        """Return the batch of this id, where there is one; what is left of one that was taken back is swept away."""
        try:
            ledger = self._ledger(destination, batch_id)
        except LedgerError:
            check_ledger_place(destination, self._settings)
            find_ledger(destination, self._settings).sweep(batch_id)
            return None
        batch = ledger.read_batch(batch_id)
        named = {ref.key for ref in batch.named}
        one = photos is None and len(named) == 1 and batch.source != canonical_url(source)  # it was the source itself
        is_other = not is_source_of(batch, source) or batch.private != private
        if is_other or not (one or (named <= set(photos or ()) and bool(named) == bool(photos))):
            raise BadRequest(f"batch {batch_id!r} is another one already, of {batch.source}: take an id of its own")
        return _submitted(batch, photos or ())

    def _submit_all(self, source: str, destination: str, asked: BatchOptions, batch_id: str | None) -> Submitted:
        found = find_source(source, self._settings, private=asked.private)  # told here, and not by the planner's log
        ledger, batch = new_batch(found.url, destination, asked, self._settings, batch_id=batch_id, photo=found.photo)
        check_not_forgotten(ledger, batch)
        batch = batch.model_copy(update={"planner": secrets.token_hex(8)})
        with self._taken_back(ledger, batch):
            write_alone(ledger, batch, self._settings)
            if batch.named:
                send_named(ledger, batch, self._broker)
            else:
                self._broker.plan(ledger.batch_url(batch.id))
        self._note(ledger, batch)
        return _submitted(batch)

    def _submit_named(
        self,
        source: str,
        destination: str,
        photos: Sequence[str],
        asked: BatchOptions,
        batch_id: str | None,
        missing: Literal["refuse", "ignore"],
    ) -> Submitted:
        named = keys = sorted(set(photos), key=lambda key: key.encode("utf-8", "surrogatepass"))
        if len(keys) > MAX_NAMED:
            raise BadRequest(
                f"{len(keys)} photos are named, and {MAX_NAMED} are the most: submit them in parts, or a whole prefix"
            )
        ledger, batch = new_batch(source, destination, asked, self._settings, batch_id=batch_id, listed=False)
        gone = frozenset() if batch.include_forgotten else forgotten_among(ledger, keys)
        keys = [key for key in keys if key not in gone]
        refs = _found(open_store(batch.source, s3=self._settings.s3), keys, refuse=missing == "refuse")
        if gone and not refs:
            raise AllForgotten(batch.destination)
        if not refs:
            raise BadRequest(f"none of the photos that were named is in {batch.source}: nothing is to be done")
        # `planner` tells this call's record from another's of the same id.
        mine = {"named": tuple(refs), "planner": secrets.token_hex(8)}
        batch = counted(batch.model_copy(update=mine))
        with self._taken_back(ledger, batch):
            write_new(ledger, batch, self._settings)
            send_named(ledger, batch, self._broker)
        self._note(ledger, batch)
        return replace(_submitted(batch, keys), forgotten=tuple(key for key in named if key in gone))

    @contextmanager
    def _taken_back(self, ledger: Ledger, batch: Batch) -> Iterator[None]:
        """Where the block fails, the batch is taken back: the caller will submit it again."""
        try:
            yield
        except WorkerError:
            with suppress(StoreError, LedgerError):
                if ledger.read_batch(batch.id).planner == batch.planner:  # what was sent finds no batch, and ends
                    ledger.forget_batch(batch.id)
                    unregister(ledger, batch, self._settings)
            raise


def _in_a_thread(
    call: Callable[Concatenate[Client, P], Answer],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, Answer]]:
    """Return a method of `AsyncClient` that does what this one of `Client` does, and takes the same."""

    @wraps(call)
    async def called(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> Answer:
        return await asyncio.to_thread(call, self._client, *args, **kwargs)

    return called


class AsyncClient:
    """`Client` for asyncio: the same calls, awaited. They run in threads, and waiting holds none."""

    def __init__(self, settings: Settings | None = None, *, actor: str | None = None) -> None:
        self._client = Client(settings, actor=actor)

    submit = _in_a_thread(Client.submit)
    status = _in_a_thread(Client.status)
    cancel = _in_a_thread(Client.cancel)

    async def wait(self, destination: str, batch: str, *, timeout_s: float | None = None) -> BatchSummary:
        """As `Client.wait`; it can be cancelled at any time, and the batch goes on."""
        watch = BatchMonitor(await asyncio.to_thread(self._client._ledger, destination, batch), batch)
        pauses = _Pauses(timeout_s, batch)
        while True:
            summary = await asyncio.to_thread(watch.poll)
            if summary.done or summary.stopped:
                return summary
            await asyncio.sleep(pauses.next(summary))


class _Pauses:
    """How long to sleep between two looks, up to a deadline."""

    def __init__(self, timeout_s: float | None, batch: str) -> None:
        self._timeout_s, self._batch = timeout_s, batch
        self._started, self._pauses_s = time.monotonic(), poll_pauses(LONGEST_POLL_S)

    def next(self, summary: BatchSummary) -> float:
        """Seconds; raises NotDone at the deadline."""
        pause_s = next(self._pauses_s)
        if self._timeout_s is None:
            return pause_s
        left_s = self._timeout_s - (time.monotonic() - self._started)
        if left_s <= 0:
            raise NotDone(
                f"batch {self._batch} is not done within {self._timeout_s} s: {summary.pending} photos are pending; "
                "it goes on, and `status` tells how far it is"
            )
        return min(pause_s, left_s)


def _found(store: Store, keys: Sequence[str], *, refuse: bool) -> list[PhotoRef]:
    """Return the present versions of these keys; raises NotFound where one is not there and `refuse` is set."""
    with ThreadPoolExecutor(HEADS) as pool:
        infos = list(pool.map(store.head, keys))
    absent = [key for key, info in zip(keys, infos, strict=True) if info is None]
    if absent and refuse:
        raise NotFound(
            f"{len(absent)} of {len(keys)} photos are not in {store.url}, such as {absent[0]!r}: name keys below the "
            'source, or pass missing="ignore"'
        )
    return [PhotoRef(key=info.key, etag=info.etag, size=info.size) for info in infos if info is not None]


def _submitted(batch: Batch, named: Iterable[str] = ()) -> Submitted:
    missing = set(named) - {ref.key for ref in batch.named}
    return Submitted(batch.id, batch.destination, batch.photos if batch.planned else None, tuple(sorted(missing)))
