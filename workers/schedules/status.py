"""Status of schedules, for people and programs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime

from workers.batches.create import find_ledger
from workers.config.settings import Settings
from workers.core import clock
from workers.core.records import Batch
from workers.errors import LedgerError, WorkerError
from workers.ledger.batch_ledger import Ledger
from workers.schedules.decide import due_at, is_retried, settled
from workers.schedules.models import RecipeFields, Schedule, State
from workers.schedules.outcome import is_over
from workers.schedules.repository import ScheduleRepository, all_schedules

#: A run's states before its end.
GOING_ON = ("starting", "running")


@dataclass(frozen=True)
class LastRun:
    fired_for: str
    reason: str
    batches: tuple[str, ...]
    #: starting, running, done, or broke off: cancelled, or with too many failures that may pass.
    status: str
    #: Sums over photos, once all is over; else an empty one.
    totals: dict[str, float]
    #: Shards with a report, of those planned so far.
    reported: int
    shards: int


@dataclass(frozen=True)
class Overview:
    name: str
    source: str = ""
    destination: str = ""
    trigger: str = ""
    on_change: tuple[str, ...] = ()
    #: As in `workers.core.records.Batch`.
    private: bool = False
    recipe: str = ""
    #: Of a rollout; else empty and 0.
    new_recipe: str = ""
    fraction: float = 0.0
    paused: bool = False
    #: ISO 8601, UTC; empty while it is paused. A moment that has passed is due.
    next: str = ""
    last: LastRun | None = None
    #: The last moment at which a run was still going on, so that none began.
    skipped: str = ""
    #: Remarks: photos that keep failing, or that were left out.
    note: str = ""
    error: str = ""

    @property
    def at_rest(self) -> bool:
        """Whether nothing is due and no run goes on."""
        due = bool(self.next) and datetime.fromisoformat(self.next) <= clock.now()
        return not due and (self.last is None or self.last.status not in GOING_ON)

    def as_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return asdict(self)


def overviews(settings: Settings) -> Iterator[Overview]:
    """All schedules by root and name; one that cannot be read is told with its error."""
    for repository, name in all_schedules(settings):
        try:
            yield overview(repository, name, settings)
        except WorkerError as error:
            yield Overview(name, error=str(error))


def overview(repository: ScheduleRepository, name: str, settings: Settings) -> Overview:
    """Where a schedule stands; raises WorkerError."""
    schedule = repository.read(name)
    state = settled(schedule, repository.state(name), settings)
    problem = repository.problem(name)
    rollout = schedule.rollout
    return Overview(
        name=schedule.name,
        source=schedule.source,
        destination=schedule.destination,
        trigger=str(schedule.trigger),
        on_change=schedule.on_change,
        private=schedule.private,
        recipe=_named(schedule.recipe),
        new_recipe=_named(rollout.recipe) if rollout else "",
        fraction=rollout.fraction if rollout else 0.0,
        paused=schedule.paused,
        next=_next(schedule, state, clock.now()),
        last=_last(schedule, state, settings),
        skipped=state.skipped,
        note=_note(schedule, state),
        error=problem.error if problem else "",
    )


def unfinished(
    repository: ScheduleRepository, name: str, settings: Settings, *, rollout: bool = False
) -> list[tuple[Ledger, Batch]]:
    """Return the last run's batches that are neither over nor stopped; with `rollout`, if the run was a rollout's."""
    schedule, run = repository.read(name), repository.state(name).run
    if run is None or run.totals is not None or (rollout and all(part.piece.whole for part in run.parts)):
        return []
    ledger = find_ledger(schedule.destination, settings)
    batches = [ledger.read_batch(part.batch) for part in run.parts if ledger.has_batch(part.batch)]
    return [(ledger, batch) for batch in batches if not ledger.stopped(batch.id) and not is_over(ledger, batch)]


def _named(recipe: RecipeFields) -> str:
    return str(recipe.get("name", ""))


def _note(schedule: Schedule, state: State) -> str:
    notes = [f"{state.note}; then: apf schedule run-now {schedule.name}"] if state.note else []
    if state.again and schedule.on_change:
        again = "" if is_retried(state) else f" with new photos, or by apf schedule run-now {schedule.name}"
        notes.append(
            f"photos that failed for a reason that may pass, {state.tries} runs in a row: {len(state.again)}; "
            f"they are tried again{again}"
        )
    return "; ".join(notes)


def _next(schedule: Schedule, state: State, at: datetime) -> str:
    if schedule.paused:
        return ""
    due = due_at(schedule, state, at)
    return (due.moment if due else schedule.trigger.following(at)).isoformat(timespec="seconds")


def _last(schedule: Schedule, state: State, settings: Settings) -> LastRun | None:
    run = state.run
    if run is None:
        return None
    ledger = find_ledger(schedule.destination, settings)
    reported = shards = 0
    for part in run.parts if run.totals is None else ():
        with suppress(LedgerError):  # not made yet
            shards += ledger.read_batch(part.batch).shards
            reported += len(ledger.reported_shards(part.batch))
    going = GOING_ON[1] if run.created else GOING_ON[0]
    return LastRun(
        fired_for=run.fire_time,
        reason=run.reason,
        batches=tuple(part.batch for part in run.parts),
        status=going if run.totals is None else "done" if run.complete else "broke off",
        totals=run.totals.model_dump() if run.totals else {},
        reported=reported,
        shards=shards,
    )
