"""What is kept of a schedule, in the object store: Redis may be flushed, and no clock has anything to remember.

    <root>/.apf/schedules/<name>/schedule.json   what was asked; commands write it
                                /last.json       what became of it; who looks at it writes it, and nobody else
                                /error.json      why it could not be looked at
                                /turn.json       who looks at it (`workers.schedules.turn`)

The root is that of the destination's open batches (`workers.registry`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from apf.recipe import Recipe
from workers.allowed import EVERYTHING
from workers.errors import LedgerError, NotFound, StoreGone, WorkerError
from workers.job import Part, Totals, parse
from workers.schedules.times import Trigger
from workers.settings import Settings
from workers.store import Store, canonical_url, inside, open_store

FOLDER = ".apf/schedules/"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")

#: A recipe as it was asked for: a built-in one's bare name, or what a file says. It gets its weights when it is used.
RecipeFields = dict[str, Any]

#: What a look waits for; without any, each look runs.
Change = Literal["recipe", "new"]


#: Told of a root that cannot be listed.
Complain = Callable[[str, WorkerError], None]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rollout(_Record):
    """A new recipe for a part of the photos; the others keep the schedule's."""

    recipe: RecipeFields
    fraction: float = Field(gt=0, lt=1)


class Schedule(_Record):
    """What an operator asked for."""

    name: str = Field(pattern=f"^{NAME.pattern}$")
    #: Canonical URLs.
    source: str
    destination: str
    trigger: Trigger
    on_change: tuple[Change, ...] = ()
    recipe: RecipeFields
    rollout: Rollout | None = None
    no_face: Literal["copy", "skip"] = "copy"
    tenant: str = ""
    callback: str | None = None
    paused: bool = False
    #: Counts the changes of recipe and rollout.
    revision: int = 1
    #: ISO 8601 with its offset: run then, whatever the clock says; with `asked_all` every photo is looked at.
    asked_at: str = ""
    asked_all: bool = False
    created_at: str

    def batch_id(self, fire_time: datetime, part: Part, *, asked: bool) -> str:
        """The same for everybody who fires the schedule for this moment; sorts among others by time."""
        stamp = f"{fire_time.astimezone(UTC):%Y%m%d-%H%M%S-%f}"
        return f"{stamp}-{self._mark(asked=asked)}" + ("-rest" if part == "rest" else "")

    def is_batch(self, batch_id: str) -> bool:
        """Whether an id is of one of its batches, by its looks."""
        return any(self._mark(asked=asked) in batch_id for asked in (True, False))

    def _mark(self, *, asked: bool) -> str:
        return hashlib.sha256(f"{self.name}\0{self.destination}\0{asked}".encode()).hexdigest()[:8]


class Piece(_Record):
    """Some of the photos, and the recipe that they have or get."""

    part: Part = "fraction"
    fraction: float = 1.0
    #: Of the recipe: its id, or of a schedule that does not wait for other weights one that is the same for all.
    identity: str

    @property
    def whole(self) -> bool:
        return self.part == "fraction" and self.fraction >= 1

    def holds(self, other: Piece) -> bool:
        """Whether all photos of the other are among these, with the same recipe."""
        if self.identity != other.identity:
            return False
        if self.whole or self.part != other.part:
            return self.whole
        return self.fraction >= other.fraction if self.part == "fraction" else self.fraction <= other.fraction


class RunPart(_Record):
    """One batch of a run."""

    batch: str
    piece: Piece
    recipe: Recipe
    #: As in `workers.job.Batch`.
    changed_since: str = ""


class Run(_Record):
    """One fire of a schedule. It is noted before its batches are made: whoever finds it unmade makes them."""

    #: ISO 8601, UTC: of the trigger's moment, not of the look.
    fire_time: str
    reason: str
    revision: int
    #: When its listing began, by the source's clock.
    as_of: str
    parts: tuple[RunPart, ...]
    created: bool = False
    #: Once all its batches are over.
    totals: Totals | None = None
    #: Every photo has an outcome that stays.
    complete: bool = False


class State(_Record):
    """What became of a schedule."""

    #: The trigger's last moment that was dealt with, whether it ran or not; ISO 8601.
    considered: str = ""
    #: The last moment at which a run was still going on, so that none began.
    skipped: str = ""
    run: Run | None = None
    #: What photos have that the source held at `as_of`, by its clock, as far as is known.
    covered: tuple[Piece, ...] = ()
    as_of: str = ""
    #: Digests of photos that were dealt with and have no output.
    without_output: tuple[str, ...] = ()
    #: Ids of recipes that other weights have replaced since the schedule was last changed.
    former: tuple[str, ...] = ()
    #: The last `Schedule.asked_at` that was run.
    asked_done: str = ""


class Problem(_Record):
    """What keeps a schedule from being looked at."""

    error: str
    #: ISO 8601.
    at: str


class Shelf:
    """The schedules of one root. All methods raise StoreError when the store refuses."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def names(self) -> list[str]:
        keys = (info.key.removeprefix(FOLDER).split("/") for info in self.store.list(FOLDER))
        return [parts[0] for parts in keys if parts[1:] == ["schedule.json"] and NAME.fullmatch(parts[0])]

    def has(self, name: str) -> bool:
        return self.store.head(self.key(name, "schedule.json")) is not None

    def read(self, name: str) -> Schedule:
        """Raises LedgerError where there is none, or where it does not validate."""
        data = self.read_bytes(name, "schedule.json")
        if data is None:
            raise LedgerError(f"there is no schedule {name!r}: `apf schedule list` shows all")
        return parse(Schedule, data, LedgerError, f"schedule {name}")

    def write(self, schedule: Schedule) -> None:
        self.put(schedule.name, "schedule.json", schedule)

    def state(self, name: str) -> State:
        """What became of it; a torn record is as good as none: the next run looks at every photo."""
        data = self.read_bytes(name, "last.json")
        try:
            return parse(State, data, LedgerError, "last.json") if data else State()
        except LedgerError:
            return State()

    def write_state(self, name: str, state: State) -> None:
        self.put(name, "last.json", state)

    def problem(self, name: str) -> Problem | None:
        data = self.read_bytes(name, "error.json")
        with suppress(LedgerError):  # torn
            return parse(Problem, data, LedgerError, "error.json") if data else None
        return None

    def note(self, name: str, problem: Problem) -> None:
        self.put(name, "error.json", problem)

    def forget_problem(self, name: str) -> None:
        self.store.delete(self.key(name, "error.json"))

    def remove(self, name: str) -> None:
        """All of it, the schedule first: what is left without it counts as nothing."""
        for file in ("schedule.json", "last.json", "error.json", "turn.json"):
            self.store.delete(self.key(name, file))

    def key(self, name: str, file: str) -> str:
        """Raises LedgerError where no schedule can have this name."""
        if not NAME.fullmatch(name):
            raise LedgerError(f"{name!r} is no schedule's name: use a-z, 0-9, dots, hyphens and underscores")
        return f"{FOLDER}{name}/{file}"

    def read_bytes(self, name: str, file: str) -> bytes | None:
        try:
            return self.store.get(self.key(name, file)).data
        except StoreGone:
            raise
        except NotFound:
            return None

    def put(self, name: str, file: str, record: BaseModel) -> None:
        data = record.model_dump_json(indent=1).encode()
        self.store.put(self.key(name, file), data, content_type="application/json")


def roots_of_schedules(settings: Settings) -> list[str]:
    """Where schedules may lie.

    Raises:
        LedgerError: no setting says so.
    """
    urls = [settings.ledger_url] if settings.ledger_url else (settings.allowed_urls or "").split()
    found = [url for url in urls if url != EVERYTHING]
    if not found:
        raise LedgerError(
            "nothing says where schedules are kept: set APF_ALLOWED_URLS to buckets and folders (not *), or "
            "APF_LEDGER_URL to one, alike for workers and commands"
        )
    return found


def shelf_for(destination: str, settings: Settings) -> Shelf:
    """Where a schedule into this destination lies.

    Raises:
        LedgerError: the settings name no place that would be looked at.
    """
    place, looked = canonical_url(destination), [canonical_url(url) for url in roots_of_schedules(settings)]
    within = looked if settings.ledger_url else [url for url in looked if inside(place, url)]
    if not within:
        raise LedgerError(
            f"{place} lies under none of {', '.join(looked)}, where schedules are kept: add its bucket or folder to "
            "APF_ALLOWED_URLS, or set APF_LEDGER_URL"
        )
    root = max(within, key=len)
    return Shelf(open_store(root, s3=settings.s3, create=True))


def all_schedules(settings: Settings, complain: Complain | None = None) -> Iterator[tuple[Shelf, str]]:
    """Every schedule's place and name, by root. What cannot be listed is told to `complain`, if given.

    Raises:
        LedgerError: no setting says where schedules lie.
        StoreError: a root cannot be listed, and there is no `complain`.
    """
    for url in roots_of_schedules(settings):
        try:
            shelf = Shelf(open_store(url, s3=settings.s3))
            names = shelf.names()
        except NotFound as error:
            if not url.startswith("s3:"):
                continue  # a folder that nobody has made yet
            _tell(complain, url, error)
        except WorkerError as error:
            _tell(complain, url, error)
        else:
            yield from ((shelf, name) for name in names)


def _tell(complain: Complain | None, url: str, error: WorkerError) -> None:
    if complain is None:
        raise error
    complain(url, error)


def find_schedule(name: str, settings: Settings) -> Shelf:
    """Where the schedule of this name lies.

    Raises:
        LedgerError: there is none.
    """
    shelf = next((shelf for shelf, found in all_schedules(settings) if found == name), None)
    if shelf is None:
        raise LedgerError(f"there is no schedule {name!r}: `apf schedule list` shows all")
    return shelf
