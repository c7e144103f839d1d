"""Parse the options of `apf schedule add` and `change` into a schedule's fields."""

from __future__ import annotations

from typing import Any

from apf.recipe import recipe_fields
from producer.cli.console import echo, fail
from workers.config.settings import Settings
from workers.schedules.edit import rolled_out, trigger
from workers.schedules.models import Schedule
from workers.schedules.trigger import Trigger, span


def new_trigger(before: Schedule, cron: str | None, timezone: str | None, every: str | None) -> Trigger:
    """Return what `--cron`, `--timezone` and `--every` make of a schedule's trigger, one of which is given."""
    if cron or every:
        return trigger(cron, timezone or "UTC", every, at_once=False)
    if not before.trigger.cron:
        fail("--timezone is of a cron line, and this schedule has none: give --cron, too")
    return trigger(before.trigger.cron, timezone or "UTC", None)


def new_recipe(before: Schedule, recipe: str | None, fraction: float | None) -> dict[str, Any]:
    """Return the fields that `--recipe` and `--fraction` change, one of which is given."""
    if recipe:
        if before.rollout and fraction is None:
            fail(
                f"schedule {before.name} has a rollout, which another recipe for all photos would drop: "
                f"apf schedule promote {before.name} or apf schedule rollback {before.name} first"
            )
        return rolled_out(recipe_fields(recipe), fraction)
    if before.rollout is None:
        fail("--fraction is of a new recipe: give --recipe, too")
    return rolled_out(before.rollout.recipe, fraction)


def warn_of_a_slower_clock(trigger: Trigger, settings: Settings) -> None:
    """Say so where a span is shorter than the time between two looks."""
    if trigger.every_s is not None and trigger.every_s < settings.schedule_every_s:
        echo(
            f"warning: apf beat looks at schedules every {settings.schedule_every_s:g} s (APF_SCHEDULE_EVERY_S), so "
            f"this one does not run every {span(trigger.every_s)}"
        )
