"""From schedules to batches: what is due is fired once, however many look at it, and whenever they die."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from apf.errors import ApfError
from workers import attempts
from workers.asking import Asked, create_batch, find_ledger
from workers.errors import LedgerError, WorkerError
from workers.job import Lane, Totals
from workers.ledger import Ledger, open_batch
from workers.planning import Taken
from workers.reconcile import Send, plan_and_send
from workers.registry import is_registered
from workers.schedules.changes import clock_of, has_new, is_covered, merged, since, wanted_pieces
from workers.schedules.outcome import is_over, outcome_of
from workers.schedules.record import Problem, Run, RunPart, Schedule, Shelf, State, all_schedules, shelf_for
from workers.schedules.turn import Turn, TurnLost, turn_at
from workers.settings import Settings
from workers.store import open_store

log = logging.getLogger(__name__)

#: Has a batch planned, by its URL; raises WorkerError.
Plan = Callable[[str], None]
Clock = Callable[[], datetime]
#: The queue for a batch of this lane and tenant; empty: by hashes.
Choose = Callable[[Lane, str], str]

#: So many replaced recipes are remembered.
MAX_FORMER = 20

#: A schedule's work has time.
LANE: Lane = "bulk"

ASKED, CLOCK, FIRST = "asked for", "the clock", "the first run"
NEW, RECIPE = "new photos", "recipe or weights changed"
CHANGED, AGAIN = "the schedule was changed", "the last run broke off"


def by_hash(lane: Lane, tenant: str) -> str:
    """A `Choose` that asks nobody."""
    return ""


@dataclass(frozen=True)
class Fired:
    """A run that was begun."""

    shelf: Shelf
    schedule: Schedule
    run: Run

    def batches(self, settings: Settings) -> list[tuple[Ledger, str]]:
        ledger = find_ledger(self.schedule.destination, settings)
        return [(ledger, part.batch) for part in self.run.parts]


def run_due(
    settings: Settings,
    plan: Plan,
    *,
    now: Clock = attempts.now,
    only: str | None = None,
    choose_queue: Choose = by_hash,
) -> list[Fired]:
    """Fire all schedules that are due, then have their batches planned.

    One that cannot be looked at keeps the error in its state and holds up no other.

    Args:
        only: a schedule's name; the others are left alone.
        choose_queue: as `workers.sending.choose_queue`.

    Raises:
        LedgerError: no setting says where schedules lie.
    """
    fired: list[Fired] = []
    for shelf, name in all_schedules(settings, complain=_log_problem):
        if only in (None, name):
            with noting_errors(shelf, name, now):
                one = look(shelf, name, settings, now, choose_queue)
                fired += [one] if one else []
    for one in fired:
        with noting_errors(one.shelf, one.schedule.name, now):
            for ledger, batch_id in one.batches(settings):
                plan(ledger.batch_url(batch_id))
    return fired


def _log_problem(url: str, error: WorkerError) -> None:
    log.warning("schedules of %s cannot be listed: %s", url, error)


def planner(send: Send, settings: Settings) -> Plan:
    """A `Plan` that plans here and now."""

    def plan(batch_url: str) -> None:
        ledger, batch_id = open_batch(batch_url, s3=settings.s3)
        with suppress(Taken):
            plan_and_send(ledger, batch_id, send, settings)

    return plan


@contextmanager
def noting_errors(shelf: Shelf, name: str, now: Clock) -> Iterator[None]:
    """Keeps an error beside the schedule, for `apf schedule list`, and lets the others go on."""
    try:
        yield
    except TurnLost as error:
        log.info("%s", error)
    except (WorkerError, ApfError) as error:
        log.warning("schedule %s is left for the next time: %s", name, error)
        with suppress(WorkerError):  # the store itself is down
            shelf.note(name, Problem(error=str(error), at=now().isoformat(timespec="seconds")))


def look(
    shelf: Shelf, name: str, settings: Settings, now: Clock = attempts.now, choose_queue: Choose = by_hash
) -> Fired | None:
    """Fire the schedule if it is due; returns the run once its batches are made.

    Raises:
        WorkerError, ApfError: source, destination, recipe or record are not as they should be.
    """
    schedule, state = shelf.read(name), shelf.state(name)
    if not _has_business(schedule, state, now(), settings):
        return None
    with turn_at(shelf, name) as turn:
        if turn is None:
            return None
        state = settled(schedule, shelf.state(name), settings)  # somebody may have been here in the meantime
        due = due_at(schedule, state, now())
        _check_place(shelf, name, schedule, settings)
        if due and (state.run is None or state.run.created):
            state = _considered(schedule, state, due, settings, turn)
            shelf.forget_problem(name)
        turn.check()
        shelf.write_state(name, state)
        if state.run is None or state.run.created:
            return None
        return _make(shelf, schedule, state, state.run, settings, choose_queue(LANE, schedule.tenant))


@dataclass(frozen=True)
class Due:
    """Why and for which moment a schedule is to be fired."""

    moment: datetime
    asked: bool
    #: The trigger's last moment, which is dealt with at the same time.
    clock: str


def due_at(schedule: Schedule, state: State, at: datetime) -> Due | None:
    """What the schedule is due for now, if it is: what was asked for, or of all moments that were missed the last."""
    if schedule.paused:
        return None
    clock = schedule.trigger.latest(at)
    missed = clock and (not state.considered or clock > datetime.fromisoformat(state.considered))
    stamp = clock.isoformat() if clock and missed else state.considered
    if schedule.asked_at and schedule.asked_at != state.asked_done:
        return Due(datetime.fromisoformat(schedule.asked_at), asked=True, clock=stamp)
    return Due(clock, asked=False, clock=stamp) if clock and missed else None


def settled(schedule: Schedule, state: State, settings: Settings) -> State:
    """The state with the end of its last run, if that has ended."""
    run = state.run
    if run is None or not run.created or run.totals is not None:
        return state
    ledger = find_ledger(schedule.destination, settings)
    batches = [ledger.read_batch(part.batch) for part in run.parts if ledger.has_batch(part.batch)]
    if not all(is_over(ledger, batch) for batch in batches):
        return state
    ends = [outcome_of(ledger, batch) for batch in batches]
    complete = all(end.complete for end in ends) and len(ends) == len(run.parts)
    ended = run.model_copy(update={"totals": Totals.sum(end.totals for end in ends), "complete": complete})
    state = state.model_copy(update={"run": ended})
    if not complete:
        return state
    covered = merged([part.piece for part in run.parts])
    without = tuple(one for end in ends for one in end.without_output)
    return state.model_copy(update={"covered": covered, "as_of": run.as_of, "without_output": without})


def _has_business(schedule: Schedule, state: State, at: datetime, settings: Settings) -> bool:
    """Whether a look may change anything, without asking the store for more than it has to."""
    run = state.run
    if due_at(schedule, state, at) or (run and not run.created):
        return True
    if run is None or run.totals is not None:
        return False
    return not any(is_registered(schedule.destination, part.batch, settings) for part in run.parts)


def _check_place(shelf: Shelf, name: str, schedule: Schedule, settings: Settings) -> None:
    """Raises LedgerError where a record lies elsewhere than it should: somebody else may have put it there."""
    wanted = shelf_for(schedule.destination, settings).store.url
    if (shelf.store.url, name) != (wanted, schedule.name):
        raise LedgerError(
            f"schedule {schedule.name} into {schedule.destination} belongs into {wanted}, and not into "
            f"{shelf.store.url}: set APF_ALLOWED_URLS and APF_LEDGER_URL alike for workers and commands"
        )


def _considered(schedule: Schedule, state: State, due: Due, settings: Settings, turn: Turn) -> State:
    """The state after a moment that is due: with a new run, or without."""
    state = state.model_copy(update={"considered": due.clock})
    if state.run and state.run.totals is None:
        log.info("schedule %s: its last run is still going on, so none begins now", schedule.name)
        return state if due.asked else state.model_copy(update={"skipped": due.clock})
    source = open_store(schedule.source, s3=settings.s3)
    as_of = clock_of(source)
    wanted = wanted_pieces(schedule, state, settings)
    every_photo = not schedule.on_change or (due.asked and schedule.asked_all)
    if not (due.asked and schedule.asked_all):
        _check_weights(schedule, state, {recipe.id for _, recipe in wanted})
    all_covered = all(is_covered(piece, state.covered) for piece, _ in wanted)
    reason = _reason(schedule, state, asked=due.asked, covered=all_covered)
    if reason is None and "new" in schedule.on_change:
        destination = open_store(schedule.destination, s3=settings.s3, create=True)
        reason = NEW if has_new(schedule, state, wanted, source, destination, turn.keep) else None
        if reason is None:  # everything there is is covered
            return state.model_copy(update={"as_of": as_of})
    if reason is None:
        return state
    parts = tuple(
        RunPart(
            batch=schedule.batch_id(due.moment, piece.part, asked=due.asked),
            piece=piece,
            recipe=recipe,
            changed_since=since(state) if is_covered(piece, state.covered) and not every_photo else "",
        )
        for piece, recipe in wanted
    )
    stamp = due.moment.astimezone(UTC).isoformat()
    run = Run(fire_time=stamp, reason=reason, revision=schedule.revision, as_of=as_of, parts=parts)
    # What this run is about to replace is covered no more, even if it breaks off.
    kept = tuple(part.piece for part in parts if is_covered(part.piece, state.covered))
    done = {"asked_done": schedule.asked_at} if due.asked else {}
    return state.model_copy(update={"run": run, "covered": kept, "former": _former(state, run), **done})


def _check_weights(schedule: Schedule, state: State, ids: set[str]) -> None:
    """Raises LedgerError in a worker with older weights: it would run everything again, and a newer one yet again."""
    if state.run and state.run.revision == schedule.revision and ids & set(state.former):
        raise LedgerError(
            f"{socket.gethostname()} has the weights that schedule {schedule.name} ran with before the present ones: "
            f"upgrade it, or go back to them from there with apf schedule run-now {schedule.name}"
        )


def _former(state: State, run: Run) -> tuple[str, ...]:
    """The recipes that were replaced, now that this run begins."""
    if state.run is None or state.run.revision != run.revision:
        return ()
    now = {part.recipe.id for part in run.parts}
    before = [*state.former, *(part.recipe.id for part in state.run.parts)]
    return tuple(dict.fromkeys(one for one in before if one not in now))[-MAX_FORMER:]


def _reason(schedule: Schedule, state: State, *, asked: bool, covered: bool) -> str | None:
    """Why to run, as far as that can be known without a listing."""
    if asked:
        return ASKED
    if not schedule.on_change:
        return CLOCK
    if state.run is None:
        return FIRST
    if not state.run.complete:
        return AGAIN
    if covered:
        return None
    return RECIPE if state.run.revision == schedule.revision else CHANGED


def _make(shelf: Shelf, schedule: Schedule, state: State, run: Run, settings: Settings, queue: str) -> Fired:
    """Make the run's batches, as far as they are not there."""
    for part in run.parts:
        asked = Asked(
            recipe=part.recipe,
            no_face=schedule.no_face,
            tenant=schedule.tenant,
            callback=schedule.callback,
            fraction=part.piece.fraction,
            part=part.piece.part,
            changed_since=part.changed_since,
            schedule=schedule.name,
            lane=LANE,
            queue=queue,
        )
        create_batch(schedule.source, schedule.destination, asked, settings, batch_id=part.batch)
    made = run.model_copy(update={"created": True})
    shelf.write_state(schedule.name, state.model_copy(update={"run": made}))
    log.info("schedule %s: %s, fired for %s", schedule.name, run.reason, run.fire_time)
    return Fired(shelf, schedule, made)
