"""Bodies of requests and answers about schedules."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from apf.recipe import DEFAULT_RECIPE
from producer.server.models import (
    Callback,
    Exclude,
    NoFace,
    Overwrite,
    Place,
    Private,
    RecipeName,
    RequestBody,
    Tenant,
    Told,
    Weak,
)
from workers.schedules.models import NAME, Change

ScheduleName = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]


class ScheduleChange(RequestBody):
    """What a schedule is to do from its next run on; what is left away stays."""

    cron: Annotated[str, Field(max_length=200)] | None = None
    """Minute, hour, day, month, weekday."""
    timezone: Annotated[str, Field(max_length=64)] | None = None
    every: Annotated[str, Field(max_length=20)] | None = None
    """A time span such as 15m, 6h or 1d."""
    on_change: Annotated[list[Change], Field(max_length=2)] | None = None
    """Run only if something has changed; an empty list: at each moment."""
    recipe: RecipeName | None = None
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """Give the recipe to this part of the photos first."""
    no_face: NoFace | None = None
    overwrite: Overwrite | None = None
    on_weak: Weak | None = None
    exclude: Exclude | None = None
    callback: Annotated[str, Field(max_length=4096)] | None = None


class ScheduleRequest(RequestBody):
    """A library to protect again and again."""

    name: ScheduleName
    source: Place
    destination: Place
    cron: Annotated[str, Field(max_length=200)] | None = None
    """Minute, hour, day, month, weekday."""
    timezone: Annotated[str, Field(max_length=64)] = "UTC"
    every: Annotated[str, Field(max_length=20)] | None = None
    """A time span such as 15m, 6h or 1d."""
    on_change: Annotated[list[Change], Field(max_length=2, default_factory=list)]
    """Run only if something has changed; left away: at each moment."""
    recipe: RecipeName = DEFAULT_RECIPE
    tenant: Tenant | None = None
    callback: Callback | None = None
    no_face: NoFace = "copy"
    overwrite: Overwrite = False
    on_weak: Weak = "publish"
    exclude: Exclude = Field(default_factory=list)
    private: Private = False


class ScheduleView(Told):
    """A schedule, and its last run."""

    model_config = ConfigDict(extra="allow")

    name: str
    source: str
    destination: str
    trigger: str
    recipe: str
    tenant: str = ""
    paused: bool
    next: str
    error: str
    note: str


class ScheduleList(Told):
    schedules: list[ScheduleView]


class Fired(Told):
    """The batches that a schedule's run has begun; none where one still goes on, and it runs after that."""

    name: str
    batches: list[str]
