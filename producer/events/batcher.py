"""Parse, route, deduplicate, batch and submit events.

Sources hand in messages and get a future for each, done once everything in it lies in a ledger. Until then the message
stays where it is, so a listener that dies, or a store that is down, loses nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from producer.events.dedupe import RecentlySubmitted
from producer.events.formats.s3 import Notice, understand
from producer.events.metrics import EVENT_AGE, EVENTS, SUBMIT_FAILURES, SUBMIT_SECONDS
from producer.events.models import Created
from producer.events.routes import Ignored, Route, Routes, tenant_of
from workers.errors import WorkerError
from workers.telemetry.redaction import keys_hidden

log = logging.getLogger(__name__)

#: Outcomes of an object, as metrics and answers have them; `Ignored` has the rest.
SUBMITTED, MISSING, DUPLICATE = "submitted", "missing", "duplicate"
#: Batches that are submitted at once: one that waits for a slow store does not hold up the others.
SUBMITTERS = 4


#: Of a message's objects, by bucket and key.
Results = dict[tuple[str, str], str]


class Stopping(WorkerError):
    """Raised when a message comes after the listener was asked to stop. Its sender keeps it."""

    transient = True


class NotSubmitted(WorkerError):
    """Raised when a batch could not be submitted for a reason that is no WorkerError. The log has it."""

    transient = True


class Submit(Protocol):
    """Submits photos of a route as one batch on the interactive lane."""

    def __call__(self, route: Route, photos: Sequence[str], *, tenant: str) -> frozenset[str]:
        """Return the photos that are not there, and are left out; no photo makes no batch.

        Raises:
            WorkerError: nothing is submitted, or not for sure.
        """


@dataclass(frozen=True, kw_only=True)
class Gathering:
    """How long events are gathered, and how many photos make a batch at once."""

    seconds: float = 0.5
    photos: int = 64
    #: Folders of a key that name its tenant; 0: none.
    tenant_segments: int = 0


@dataclass(frozen=True)
class Taken:
    """The outcomes of the objects of a message that is done with."""

    #: By bucket and key, in the event's order: "submitted", "missing", "duplicate", or why it is left alone.
    results: Mapping[tuple[str, str], str]
    #: Why records are left out that no object could be read from.
    malformed: Sequence[str] = ()

    @property
    def photos(self) -> int:
        """How many are in a ledger now."""
        return sum(result == SUBMITTED for result in self.results.values())

    @property
    def is_short(self) -> bool:
        """Whether an object is not there, or a record is left out."""
        return MISSING in self.results.values() or bool(self.malformed)


@dataclass(eq=False)
class _Ticket:
    """A message with photos in some groups."""

    source: str
    #: Of its photos, by route and key below its source.
    photos: dict[tuple[Route, str], Created]
    #: As in `Taken`, of what is decided already.
    results: dict[tuple[str, str], str]
    malformed: Sequence[str]
    future: Future[Taken] = field(default_factory=Future)
    #: Groups not yet done with, and one for `take` itself: or a first group that is done soon would settle it.
    left: int = 1
    error: WorkerError | None = None

    def settle(self) -> None:
        """All groups are done with. Callbacks of the source run here, and take their time: hold no lock."""
        if self.error:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(Taken(self.results, self.malformed))

    def note_missing(self, route: Route, keys: Iterable[str]) -> None:
        for key in keys:
            event = self.photos[route, key]
            self.results[event.bucket, event.key] = MISSING


@dataclass(eq=False)
class _Group:
    """Photos of one route and tenant, for one batch."""

    route: Route
    tenant: str
    due: float
    opened: float
    #: The latest event of each photo, by its key below the source.
    photos: dict[str, Created] = field(default_factory=dict)
    #: Which of them each message told of.
    tickets: dict[_Ticket, set[str]] = field(default_factory=dict)
    #: Which of them turned out not to be there.
    missing: set[str] = field(default_factory=set)


class EventBatcher:
    """Where all sources hand in their messages. Safe to share between threads; close it."""

    def __init__(
        self, routes: Routes, submit: Submit, marks: RecentlySubmitted, gathering: Gathering, *, log_keys: bool = False
    ) -> None:
        """`log_keys`: as APF_LOG_KEYS."""
        self._log_keys = log_keys
        self._routes = routes
        self._submit = submit
        self._marks = marks
        self._gathering = gathering
        self._groups: dict[tuple[Route, str], _Group] = {}
        self._changed = threading.Condition()
        self._settling = threading.Lock()
        self._stopping = False
        self._pool = ThreadPoolExecutor(SUBMITTERS, thread_name_prefix="submit")
        self._running: set[Future[None]] = set()
        self._clock = threading.Thread(target=self._gather, name="gather", daemon=True)
        self._clock.start()

    def take(self, body: bytes | str, source: str) -> Future[Taken]:
        """Return a future of what became of this message's photos, once they are in a ledger; else it raises
        WorkerError.

        Args:
            source: names where the message came from, for metrics.

        Raises:
            MalformedEvent: the message is none that we know.
            Stopping: the listener stops.
        """
        if self._stopping:
            raise Stopping("the listener stops: send it again")
        notice = understand(body)
        self._tell(notice, source)
        self._marks.forget(notice.removed)
        # A message may tell of one object twice: what is new of it counts.
        results = {(event.bucket, event.key): SUBMITTED for event in notice.created}
        wanted = self._new(self._routed(notice.created, source, results), source, results)
        ticket = _Ticket(source, {(route, key): event for route, key, event in wanted}, results, notice.malformed)
        if not wanted:
            ticket.settle()
            return ticket.future
        with self._changed:
            if self._stopping:
                raise Stopping("the listener stops: send it again")
            for route, key, event in wanted:
                self._add(ticket, route, key, event)
            self._changed.notify()
        self._release([ticket])
        return ticket.future

    def close(self, within_s: float) -> bool:
        """Submit what is in hand. Returns whether all of it was done with in time."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        deadline = time.monotonic() + within_s
        self._clock.join(within_s)
        unfinished = wait(set(self._running), timeout=max(0.0, deadline - time.monotonic())).not_done
        self._pool.shutdown(wait=False, cancel_futures=True)
        return not unfinished and not self._clock.is_alive()

    def _tell(self, notice: Notice, source: str) -> None:
        for problem in notice.malformed:
            log.warning("a record of an event from %s is left out: %s", source, problem)
        EVENTS.labels(source, "malformed").inc(len(notice.malformed))
        EVENTS.labels(source, "other").inc(notice.other)
        EVENTS.labels(source, "removed").inc(len(notice.removed))

    def _routed(self, events: Sequence[Created], source: str, results: Results) -> list[tuple[Route, str, Created]]:
        found = []
        for event in events:
            place = self._routes.find(event.bucket, event.key)
            if isinstance(place, Ignored):
                EVENTS.labels(source, place.value).inc()
                results[event.bucket, event.key] = place.value
            else:
                found.append((*place, event))
        return found

    def _new(
        self, wanted: list[tuple[Route, str, Created]], source: str, results: Results
    ) -> list[tuple[Route, str, Created]]:
        seen = self._marks.seen([event for _, _, event in wanted])
        EVENTS.labels(source, DUPLICATE).inc(sum(seen))
        new = [one for one, known in zip(wanted, seen, strict=True) if not known]
        results |= {(event.bucket, event.key): DUPLICATE for _, _, event in wanted}
        results |= {(event.bucket, event.key): SUBMITTED for _, _, event in new}
        return new

    def _add(self, ticket: _Ticket, route: Route, key: str, event: Created) -> None:
        tenant = tenant_of(key, self._gathering.tenant_segments)
        now = time.monotonic()
        fresh = _Group(route, tenant, due=now + self._gathering.seconds, opened=now)
        group = self._groups.setdefault((route, tenant), fresh)
        group.photos[key] = event
        if ticket not in group.tickets:
            group.tickets[ticket] = set()
            with self._settling:
                ticket.left += 1
        group.tickets[ticket].add(key)
        if len(group.photos) >= self._gathering.photos:
            self._send(group)

    def _gather(self) -> None:
        with self._changed:
            while True:
                now = time.monotonic()
                for group in [group for group in self._groups.values() if self._stopping or group.due <= now]:
                    self._send(group)
                if self._stopping:
                    return
                due = min((group.due for group in self._groups.values()), default=None)
                self._changed.wait(None if due is None else max(0.0, due - now))

    def _send(self, group: _Group) -> None:
        del self._groups[group.route, group.tenant]
        running = self._pool.submit(self._finish_hidden, group)
        self._running.add(running)
        running.add_done_callback(self._running.discard)

    def _hidden(self, keys: Iterable[str]) -> AbstractContextManager[None]:
        return nullcontext() if self._log_keys else keys_hidden(keys)

    def _finish_hidden(self, group: _Group) -> None:
        with self._hidden(group.photos):
            self._finish(group)

    def _finish(self, group: _Group) -> None:
        keys = sorted(group.photos)
        failed: dict[str, WorkerError] = {}
        try:
            if error := self._batch(group, keys):
                failed = self._narrowed(group, keys, error)
            self._count(group, failed)
        except Exception:  # or its messages would be held for ever
            log.exception("%d photos of %s are perhaps not submitted, and are kept", len(keys), group.route.source)
            failed = dict.fromkeys(keys, NotSubmitted("a bug: the listener's log tells where"))
        with self._settling:  # a ticket may be in several groups at once
            for ticket, told in group.tickets.items():
                ticket.error = ticket.error or next((failed[key] for key in told if key in failed), None)
                ticket.note_missing(group.route, told & group.missing)
        self._release(group.tickets)

    def _release(self, tickets: Iterable[_Ticket]) -> None:
        """One part of each is done with."""
        settled = []
        with self._settling:
            for ticket in tickets:
                ticket.left -= 1
                if not ticket.left:
                    settled.append(ticket)
        for ticket in settled:
            with self._hidden(key for _, key in ticket.photos):  # sources log why it failed
                ticket.settle()

    def _narrowed(self, group: _Group, keys: list[str], error: WorkerError) -> dict[str, WorkerError]:
        """Return what fails of these keys, by key: one unreadable photo must not keep the others.

        Where both halves fail, it is not for one photo, and all wait for the next time.
        """
        if error.transient or len(keys) == 1:
            return dict.fromkeys(keys, error)
        halves = (keys[: len(keys) // 2], keys[len(keys) // 2 :])
        failed = [(half, failure) for half in halves if (failure := self._batch(group, half))]
        if len(failed) == len(halves):
            return dict.fromkeys(keys, error)
        return self._narrowed(group, *failed[0]) if failed else {}

    def _batch(self, group: _Group, keys: list[str]) -> WorkerError | None:
        """Submit these; returns why they are not submitted."""
        source = group.route.source
        try:
            missing = self._submit(group.route, keys, tenant=group.tenant)
        except WorkerError as error:
            log.error("%d photos of %s are not submitted, and are kept: %s", len(keys), source, error)
            SUBMIT_FAILURES.inc()
            return error
        except Exception:
            log.exception("%d photos of %s are not submitted, and are kept", len(keys), source)
            SUBMIT_FAILURES.inc()
            return NotSubmitted(f"{len(keys)} photos could not be submitted: the listener's log says why")
        group.missing |= missing  # a store may show an object late: it is not taken for done
        self._marks.remember([group.photos[key] for key in keys if key not in missing])
        log.info("%d photos of %s submitted", len(keys) - len(missing), source)
        if missing:
            log.warning("%d photos of %s are not there, and left out", len(missing), source)
        return None

    def _count(self, group: _Group, failed: dict[str, WorkerError]) -> None:
        for ticket, told in group.tickets.items():
            EVENTS.labels(ticket.source, "failed").inc(len(told & failed.keys()))
            EVENTS.labels(ticket.source, MISSING).inc(len(told & group.missing))
            EVENTS.labels(ticket.source, SUBMITTED).inc(len(told - failed.keys() - group.missing))
        if len(failed) == len(group.photos):
            return
        SUBMIT_SECONDS.observe(time.monotonic() - group.opened)
        times = [event.at for event in group.photos.values() if event.at]
        if times:
            EVENT_AGE.set((datetime.now(UTC) - max(times)).total_seconds())
