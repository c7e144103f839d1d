"""What the options of `apf schedule change` make of a schedule's fields."""

from __future__ import annotations

from typing import Any

from apf.recipe import recipe_fields
from producer.terminal import refuse, say
from workers.schedules.editing import rolled_out, trigger
from workers.schedules.record import Schedule
from workers.schedules.times import Trigger, span
from workers.settings import Settings


def new_trigger(before: Schedule, cron: str | None, timezone: str | None, every: str | None) -> Trigger:
    """What `--cron`, `--timezone` and `--every` make of a schedule's trigger, one of which is given."""
    if cron or every:
        return trigger(cron, timezone or "UTC", every, at_once=False)
    if not before.trigger.cron:
        refuse("--timezone is of a cron line, and this schedule has none: give --cron, too")
    return trigger(before.trigger.cron, timezone or "UTC", None)


def new_recipe(before: Schedule, recipe: str | None, fraction: float | None) -> dict[str, Any]:
    """The fields that `--recipe` and `--fraction` change, one of which is given."""
    if recipe:
        if before.rollout and fraction is None:
            refuse(
                f"schedule {before.name} has a rollout, which another recipe for all photos would drop: "
                f"apf schedule promote {before.name} or apf schedule rollback {before.name} first"
            )
        return rolled_out(recipe_fields(recipe), fraction)
    if before.rollout is None:
        refuse("--fraction is of a new recipe: give --recipe, too")
    return rolled_out(before.rollout.recipe, fraction)


def warn_of_a_slower_clock(trigger: Trigger, settings: Settings) -> None:
    """Say so where a span is shorter than the time between two looks."""
    if trigger.every_s is not None and trigger.every_s < settings.schedule_every_s:
        say(
            f"warning: apf beat looks at schedules every {settings.schedule_every_s:g} s (APF_SCHEDULE_EVERY_S), so "
            f"this one does not run every {span(trigger.every_s)}"
        )
