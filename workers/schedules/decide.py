"""Decide whether a schedule runs, why, and on which photos. Writes nothing."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from workers.batches.create import find_ledger
from workers.config.settings import Settings
from workers.core.records import Totals
from workers.errors import LedgerError
from workers.ledger.left_out import read_left_outs
from workers.schedules.diff import clock_of, has_new, is_covered, merged, since, wanted_pieces
from workers.schedules.models import Run, RunPart, Schedule, State
from workers.schedules.outcome import MAX_AGAIN, BatchOutcome, outcome_of
from workers.store import open_store

log = logging.getLogger(__name__)

#: So many replaced recipes are remembered.
MAX_FORMER = 20

ASKED, CLOCK, FIRST = "asked for", "the clock", "the first run"
NEW, RECIPE = "new photos", "recipe or weights changed"
CHANGED, AGAIN = "the schedule was changed", "the last run broke off"
RETRY = "photos failed for a reason that may pass"

#: Runs in a row for nothing but the same failed photos; from then on they are tried when there is another reason.
MAX_TRIES = 10


@dataclass(frozen=True)
class Due:
    """Why and for which moment a schedule is to be fired."""

    moment: datetime
    asked: bool
    #: The trigger's last moment, which is dealt with at the same time.
    clock: str


def due_at(schedule: Schedule, state: State, at: datetime) -> Due | None:
    """Return what the schedule is due for now, if it is: what was asked for, or of all moments that were missed the
    last.
    """
    if schedule.paused:
        return None
    clock = schedule.trigger.latest(at)
    missed = clock and (not state.considered or clock > datetime.fromisoformat(state.considered))
    stamp = clock.isoformat() if clock and missed else state.considered
    if schedule.asked_at and schedule.asked_at != state.asked_done:
        return Due(datetime.fromisoformat(schedule.asked_at), asked=True, clock=stamp)
    return Due(clock, asked=False, clock=stamp) if clock and missed else None


def settled(schedule: Schedule, state: State, settings: Settings, keep: Callable[[], None] = lambda: None) -> State:
    """Return the state with the end of its last run, if that has ended.

    Args:
        keep: called now and then.
    """
    run = state.run
    if run is None or not run.created or run.totals is not None:
        return state
    ledger = find_ledger(schedule.destination, settings)
    batches = [ledger.read_batch(part.batch) for part in run.parts if ledger.has_batch(part.batch)]
    ends: list[BatchOutcome] = []
    for batch in batches:
        end = outcome_of(ledger, batch, keep)
        if end is None:
            return state
        ends.append(end)
    again = tuple(one for end in ends for one in end.again)
    complete = all(end.complete for end in ends) and len(ends) == len(run.parts) and len(again) <= MAX_AGAIN
    ended = run.model_copy(update={"totals": Totals.sum(end.totals for end in ends), "complete": complete})
    state = state.model_copy(update={"run": ended})
    if not complete:
        return state
    covered = merged([part.piece for part in run.parts])
    without = tuple(one for end in ends for one in end.without_output)
    left_out = sum(read_left_outs(ledger, batch).total for batch in batches)
    told = [batch.note for batch in batches] + ([f"{left_out} left out: apf status says what"] if left_out else [])
    notes = "; ".join(dict.fromkeys(note for note in told if note))
    only_new = any(part.changed_since for part in run.parts)
    tries = state.tries + 1 if set(again) <= set(state.again) else 1
    return state.model_copy(
        update={
            "covered": covered,
            "as_of": run.as_of,
            "without_output": without,
            "again": again,
            "tries": tries if again else 0,
            "note": notes or (state.note if only_new else ""),
        }
    )


def is_retried(state: State) -> bool:
    """Return whether photos that failed are a reason to run."""
    return bool(state.again) and state.tries < MAX_TRIES


def considered(schedule: Schedule, state: State, due: Due, settings: Settings, keep: Callable[[], None]) -> State:
    """Return the state after a moment that is due: with a new run, or without.

    Args:
        keep: called now and then.

    Raises:
        WorkerError, ApfError: source, destination or recipe are not as they should be.
    """
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
        ledger = find_ledger(schedule.destination, settings)
        reason = NEW if has_new(schedule, state, wanted, source, destination, keep, ledger) else None
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
    """Raise LedgerError in a worker with older weights: it would run everything again, and a newer one yet again."""
    if state.run and state.run.revision == schedule.revision and ids & set(state.former):
        raise LedgerError(
            f"{socket.gethostname()} has the weights that schedule {schedule.name} ran with before the present ones: "
            f"upgrade it, or go back to them from there with apf schedule run-now {schedule.name}"
        )


def _former(state: State, run: Run) -> tuple[str, ...]:
    """Return the recipes that were replaced, now that this run begins."""
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
        return RETRY if is_retried(state) else None
    return RECIPE if state.run.revision == schedule.revision else CHANGED
