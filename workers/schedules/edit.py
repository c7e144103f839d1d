"""Edit a schedule's record."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from pydantic import ValidationError

from apf.exclusions import Exclusions
from apf.recipe import check_jury, check_private, make_recipe
from workers.access.sources import check_places, find_source
from workers.batches.create import check_ledger_place, find_ledger
from workers.config.settings import Settings
from workers.core.clock import now
from workers.core.records import explain
from workers.errors import BadRequest, LedgerError, NotFound, StoreError, StoreGone
from workers.ledger.audit import note_act
from workers.schedules.models import Change, RecipeFields, Rollout, Schedule
from workers.schedules.repository import ScheduleRepository, all_schedules, repository_for
from workers.schedules.trigger import Trigger, seconds
from workers.store import canonical_url, open_store
from workers.webhooks.ssrf import parse_target

log = logging.getLogger(__name__)

#: A schedule that only waits for changes looks for them so often.
DEFAULT_EVERY = "15m"


def trigger(cron: str | None, timezone: str, every: str | None, *, at_once: bool = True) -> Trigger:
    """Return a trigger from now on.

    Args:
        at_once: whether the first moment of `every` is now, or a span from now.

    Raises:
        BadRequest: it is none, or two.
    """
    try:
        every_s = seconds(every) if every else None
        first = now() if at_once else now() + timedelta(seconds=every_s or 0)
        return Trigger(cron=cron, timezone=timezone, every_s=every_s, first=first.isoformat())
    except ValidationError as error:
        raise BadRequest("; ".join(e["msg"].removeprefix("Value error, ") for e in error.errors())) from error
    except ValueError as error:
        raise BadRequest(str(error)) from error


def add_schedule(fields: dict[str, Any], settings: Settings) -> Schedule:
    """Check and keep a new schedule.

    Raises:
        BadRequest: a field does not validate.
        NotAllowed, OverlapError: of source and destination, as for a batch.
        IsOutput: the source holds outputs of batches.
        StoreError: the source is missing.
        LedgerError: there is one of that name, or no place for it.
        PatternError: a pattern that excludes photos is malformed.
        RecipeError, CallbackError: the recipe does not validate, or the callback's URL.
        SettingsError: the destination is in a bucket, and nothing says where its ledger lies.
    """
    places = {name: canonical_url(fields[name]) for name in ("source", "destination")}
    check_ledger_place(places["destination"], settings)
    schedule = _checked({**fields, **places, "created_at": now().isoformat()}, settings)
    check_places(schedule.source, schedule.destination, settings)
    _check_source(schedule, settings)
    open_store(schedule.destination, s3=settings.s3, create=True)
    repository = repository_for(schedule.destination, settings)
    if any(name == schedule.name for _, name in all_schedules(settings)):
        raise LedgerError(f"there is a schedule {schedule.name!r} already: `apf schedule change` changes it")
    repository.remove(schedule.name)  # what an earlier one of that name has left
    repository.write(schedule)
    return schedule


def _check_source(schedule: Schedule, settings: Settings) -> None:
    try:
        found = find_source(schedule.source, settings, private=schedule.private)
    except StoreGone:
        raise
    except NotFound:
        return  # a prefix that gets its first photo later
    if found.photo:
        raise BadRequest(f"{schedule.source} is one photo: give a schedule the folder or prefix that it lies in")


def change_schedule(repository: ScheduleRepository, name: str, fields: dict[str, Any], settings: Settings) -> Schedule:
    """Keep a schedule with other fields, in its place; raises BadRequest, LedgerError, RecipeError."""
    before = repository.read(name)
    facts = {**before.model_dump(), **fields}
    if any(facts[field] != before.model_dump()[field] for field in ("recipe", "rollout")):
        facts["revision"] = before.revision + 1
    after = _checked(facts, settings)
    home = repository_for(after.destination, settings)
    if home.store.url != repository.store.url:  # APF_LEDGER_URL was set later
        home.write_state(name, repository.state(name))
    home.write(after)
    if home.store.url != repository.store.url:
        repository.remove(name)
    return after


def rolled_out(recipe: RecipeFields, fraction: float | None) -> dict[str, Any]:
    """Return the fields that change where a recipe comes to a fraction of the photos, or to all of them."""
    if fraction is None or fraction == 1:
        return {"recipe": recipe, "rollout": None}
    try:
        return {"rollout": Rollout(recipe=recipe, fraction=fraction).model_dump()}
    except ValidationError as error:
        raise BadRequest(f"a recipe cannot be rolled out so: {explain(error)}") from error


def asked_now(*, every_photo: bool) -> dict[str, Any]:
    """Return the fields that make a schedule due at once."""
    return {"asked_at": now().isoformat(), "asked_all": every_photo}


def changes(names: Sequence[str]) -> tuple[Change, ...]:
    """Return what `--on-change` names; raises BadRequest."""
    found: list[Change] = []
    for name in names:
        match name:
            case "recipe" | "new":
                found.append(name)
            case _:
                raise BadRequest(f"--on-change {name!r}: use recipe (it or the weights changed) or new (photos)")
    return tuple(dict.fromkeys(found))


def note_schedule_act(schedule: Schedule, who: str, act: str, settings: Settings, **facts: Any) -> None:
    """Keep a line in the audit log of the schedule's destination; as `workers.ledger.audit.note_act`."""
    try:
        ledger = find_ledger(schedule.destination, settings)
    except StoreError as error:  # its folder is gone
        log.error("the audit log lacks a line (%s of schedule %s by %s): %s", act, schedule.name, who, error)
        return
    note_act(ledger, who, f"schedule {act}", batch="", schedule=schedule.name, **facts)


def _checked(fields: dict[str, Any], settings: Settings) -> Schedule:
    try:
        schedule = Schedule.model_validate(fields)
    except ValidationError as error:
        raise BadRequest(f"a schedule cannot be like this: {explain(error)}") from error
    for recipe in [schedule.recipe, *([schedule.rollout.recipe] if schedule.rollout else [])]:
        made = make_recipe(recipe, detector=settings.detector)
        if schedule.private:
            check_private(made)
        if schedule.on_weak == "fail":
            check_jury(made, private=schedule.private)
    Exclusions(schedule.exclude)
    if schedule.callback is not None:
        parse_target(schedule.callback)
    return schedule
