"""Bodies of requests and answers about schedules."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from apf.recipe import DEFAULT_RECIPE
from producer.server.models import Callback, Key, NoFace, Place, RecipeName, RequestBody, Tenant
from workers.core.records import OnWeak
from workers.schedules.models import NAME, Change

ScheduleName = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]


class ScheduleChange(RequestBody):
    """What a schedule is to do from its next run on; what is left away stays."""

    #: Minute, hour, day, month, weekday.
    cron: Annotated[str, Field(max_length=200)] | None = None
    timezone: Annotated[str, Field(max_length=64)] | None = None
    #: A time span such as 15m, 6h or 1d.
    every: Annotated[str, Field(max_length=20)] | None = None
    #: Run only if something has changed; an empty list: at each moment.
    on_change: Annotated[list[Change], Field(max_length=2)] | None = None
    recipe: RecipeName | None = None
    #: Give the recipe to this part of the photos first.
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    no_face: NoFace | None = None
    overwrite: bool | None = None
    on_weak: OnWeak | None = None
    exclude: Annotated[list[Key], Field(max_length=1000)] | None = None
    callback: Annotated[str, Field(max_length=4096)] | None = None


class ScheduleRequest(RequestBody):
    """A library to protect again and again."""

    name: ScheduleName
    source: Place
    destination: Place
    cron: Annotated[str, Field(max_length=200)] | None = None
    timezone: Annotated[str, Field(max_length=64)] = "UTC"
    every: Annotated[str, Field(max_length=20)] | None = None
    on_change: Annotated[list[Change], Field(max_length=2, default_factory=list)]
    recipe: RecipeName = DEFAULT_RECIPE
    tenant: Tenant | None = None
    callback: Callback | None = None
    no_face: NoFace = "copy"
    overwrite: bool = False
    on_weak: OnWeak = "publish"
    exclude: Annotated[list[Key], Field(max_length=1000, default_factory=list)]
    private: bool = False


class ScheduleView(BaseModel):
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


class ScheduleList(BaseModel):
    schedules: list[ScheduleView]


class Fired(BaseModel):
    """The batches that a schedule's run has begun; none where one still goes on, and it runs after that."""

    name: str
    batches: list[str]
