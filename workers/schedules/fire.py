"""Fire schedules that are due: once, however many processes evaluate them, and whenever they die."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from celery.exceptions import SoftTimeLimitExceeded

from workers.batches.create import BatchOptions, create_batch, find_ledger
from workers.broker.client import Broker
from workers.config.settings import Settings
from workers.core import clock
from workers.core.records import Lane
from workers.errors import LedgerError
from workers.ledger.batch_ledger import Ledger
from workers.ledger.open_batches import is_registered
from workers.schedules.decide import considered, due_at, settled
from workers.schedules.failures import Clock, failing_last, record_errors
from workers.schedules.lease import ScheduleLeaseLost, lease_at
from workers.schedules.models import Run, Schedule, State
from workers.schedules.repository import ScheduleRepository, repository_for

log = logging.getLogger(__name__)

#: A schedule's work has time.
LANE: Lane = "bulk"
#: What a schedule's batches have of it.
SHARED = {"private", "no_face", "overwrite", "on_weak", "tenant", "callback", "exclude"}


@dataclass(frozen=True)
class Fired:
    """A run that was begun."""

    repository: ScheduleRepository
    schedule: Schedule
    run: Run

    def batches(self, settings: Settings) -> list[tuple[Ledger, str]]:
        ledger = find_ledger(self.schedule.destination, settings)
        return [(ledger, part.batch) for part in self.run.parts]


def run_due(
    settings: Settings, broker: Broker | None, *, now: Clock = clock.now, only: str | None = None
) -> list[Fired]:
    """Fire all schedules that are due, then have their batches planned.

    One that cannot be looked at keeps the error in its state and holds up no other. Once the caller's time is up no
    more are looked at; those that went wrong the last time come last, so that each gets its turn.

    Args:
        broker: plans the batches; None leaves that to the caller.
        only: a schedule's name; the others are left alone.

    Raises:
        LedgerError: no setting says where schedules lie.
    """
    fired: list[Fired] = []
    with suppress(SoftTimeLimitExceeded):
        for repository, name, troubled in failing_last(settings, only):
            with record_errors(repository, name, now):
                one = look(repository, name, settings, now, broker)
                fired += [one] if one else []
                if troubled:
                    repository.forget_problem(name)
    if broker is None:
        return fired
    for one in fired:
        with suppress(SoftTimeLimitExceeded), record_errors(one.repository, one.schedule.name, now):
            for ledger, batch_id in one.batches(settings):
                broker.plan(ledger.batch_url(batch_id))
    return fired


def look(
    repository: ScheduleRepository, name: str, settings: Settings, now: Clock = clock.now, broker: Broker | None = None
) -> Fired | None:
    """Fire the schedule if it is due; returns the run once its batches are made.

    Raises:
        ScheduleLeaseLost: another process holds its lease.
        WorkerError, ApfError: source, destination, recipe or record are not as they should be.
    """
    schedule, state = repository.read(name), repository.state(name)
    if not _has_business(schedule, state, now(), settings):
        return None
    with lease_at(repository, name) as lease:
        if lease is None:
            raise ScheduleLeaseLost(f"schedule {name} is evaluated by another process")
        state = settled(schedule, repository.state(name), settings, lease.keep)  # it may have changed until now
        due = due_at(schedule, state, now())
        _check_place(repository, name, schedule, settings)
        if due and (state.run is None or state.run.created):
            state = considered(schedule, state, due, settings, lease.keep)
        lease.check()
        repository.write_state(name, state)
        if state.run is None or state.run.created:
            return None
        queue = broker.choose_queue(LANE, schedule.tenant) if broker else ""
        return _make(repository, schedule, state, state.run, settings, queue)


def _has_business(schedule: Schedule, state: State, at: datetime, settings: Settings) -> bool:
    """Return whether a look may change anything, without asking the store for more than it has to."""
    run = state.run
    if due_at(schedule, state, at) or (run and not run.created):
        return True
    if run is None or run.totals is not None:
        return False
    return not any(is_registered(schedule.destination, part.batch, settings) for part in run.parts)


def _check_place(repository: ScheduleRepository, name: str, schedule: Schedule, settings: Settings) -> None:
    """Raise LedgerError where a record lies elsewhere than it should: it may be forged."""
    wanted = repository_for(schedule.destination, settings).store.url
    if (repository.store.url, name) != (wanted, schedule.name):
        raise LedgerError(
            f"schedule {schedule.name} into {schedule.destination} belongs into {wanted}, and not into "
            f"{repository.store.url}: set APF_ALLOWED_URLS and APF_LEDGER_URL alike for workers and commands; where "
            f"APF_LEDGER_URL was set later, move it there by: apf schedule go-on {schedule.name}"
        )


def _make(
    repository: ScheduleRepository, schedule: Schedule, state: State, run: Run, settings: Settings, queue: str
) -> Fired:
    """Make the run's batches, as far as they are not there."""
    for part in run.parts:
        asked = BatchOptions(
            **schedule.model_dump(include=SHARED),
            recipe=part.recipe,
            fraction=part.piece.fraction,
            part=part.piece.part,
            changed_since=part.changed_since,
            again=frozenset(state.again if part.changed_since else ()),
            schedule=schedule.name,
            lane=LANE,
            queue=queue,
        )
        create_batch(schedule.source, schedule.destination, asked, settings, batch_id=part.batch)
    made = run.model_copy(update={"created": True})
    repository.write_state(schedule.name, state.model_copy(update={"run": made}))
    log.info("schedule %s: %s, fired for %s", schedule.name, run.reason, run.fire_time)
    return Fired(repository, schedule, made)
