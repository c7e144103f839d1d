"""Records of schedules and their runs; `workers.schedules.repository` stores them."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from apf.recipe import Recipe
from workers.core.records import OnWeak, Part, Totals, VersionedRecord
from workers.schedules.trigger import Trigger

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")

#: A recipe as it was asked for: a built-in one's bare name, or what a file says. It gets its weights when it is used.
RecipeFields = dict[str, Any]

#: Conditions of a run; without any, each evaluation runs.
Change = Literal["recipe", "new"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rollout(_Record):
    """A new recipe for a part of the photos; the others keep the schedule's."""

    recipe: RecipeFields
    fraction: float = Field(gt=0, lt=1)


class Schedule(VersionedRecord):
    """A schedule, as its operator set it."""

    newer_fields = ("private", "exclude", "overwrite", "on_weak")

    name: str = Field(pattern=f"^{NAME.pattern}$")
    #: Canonical URLs.
    source: str
    destination: str
    trigger: Trigger
    on_change: tuple[Change, ...] = ()
    recipe: RecipeFields
    rollout: Rollout | None = None
    #: As in `workers.core.records.Batch`.
    private: bool = False
    no_face: Literal["copy", "skip"] = "copy"
    overwrite: bool = False
    on_weak: OnWeak = "publish"
    exclude: tuple[str, ...] = ()
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
        """Return the run's id: the same in every process that fires the schedule for this moment; ids sort by time."""
        stamp = f"{fire_time.astimezone(UTC):%Y%m%d-%H%M%S-%f}"
        return f"{stamp}-{self._mark(asked=asked)}" + ("-rest" if part == "rest" else "")

    def is_batch(self, batch_id: str) -> bool:
        """Return whether an id is of one of its batches, by its looks."""
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
        """Return whether all photos of the other are among these, with the same recipe."""
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
    #: As in `workers.core.records.Batch`.
    changed_since: str = ""


class Run(_Record):
    """One fire of a schedule. It is noted before its batches are made: the next look makes missing ones."""

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
    #: Every photo has an outcome, but for those that `State.again` and `State.note` tell of.
    complete: bool = False


class State(_Record):
    """The state of a schedule."""

    #: The trigger's last moment that was dealt with, whether it ran or not; ISO 8601.
    considered: str = ""
    #: The last moment at which a run was still going on, so that none began.
    skipped: str = ""
    run: Run | None = None
    #: The state of photos that the source held at `as_of`, by its clock, as far as is known.
    covered: tuple[Piece, ...] = ()
    as_of: str = ""
    #: Digests of photos that were dealt with and have no output.
    without_output: tuple[str, ...] = ()
    #: Digests of the keys of those that failed for a reason that may pass, and how many runs in a row they did.
    again: tuple[str, ...] = ()
    tries: int = 0
    #: For people: that the source was too large, and the rest was left out.
    note: str = ""
    #: Ids of recipes that other weights have replaced since the schedule was last changed.
    former: tuple[str, ...] = ()
    #: The last `Schedule.asked_at` that was run.
    asked_done: str = ""


class Problem(_Record):
    """The error that keeps a schedule from being evaluated."""

    error: str
    #: ISO 8601.
    at: str
