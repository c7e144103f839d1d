"""Schedules: list, make, change, run, hold."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response

from apf.recipe import recipe_fields
from producer.server.auth import Operator, Reader, The, check_place, tenant_for
from producer.server.problems import Problem, described
from producer.server.routes.batches import IdempotencyKey
from producer.server.schedule_models import Fired, ScheduleChange, ScheduleList, ScheduleRequest, ScheduleView
from producer.server.services import Services
from producer.server.tokens import Grant
from workers.errors import BadRequest, LedgerError, WorkerError
from workers.schedules.edit import (
    DEFAULT_EVERY,
    add_schedule,
    asked_now,
    change_schedule,
    note_schedule_act,
    rolled_out,
    trigger,
)
from workers.schedules.fire import run_due
from workers.schedules.models import NAME, Schedule
from workers.schedules.repository import ScheduleRepository, all_schedules
from workers.schedules.status import Overview, overview

router = APIRouter(tags=["schedules"])

Name = Annotated[str, Path(pattern=f"^{NAME.pattern}$")]


def found_schedule(the: Services, grant: Grant, name: str) -> tuple[ScheduleRepository, Schedule]:
    """Return a schedule that the grant's holder may see; raises Problem (404) where there is none."""
    repository = next((repository for repository, one in all_schedules(the.settings) if one == name), None)
    schedule = repository.read(name) if repository else None
    if repository is None or schedule is None or not grant.may_see(schedule.tenant):
        raise Problem(HTTPStatus.NOT_FOUND, f"there is no schedule {name!r} that this token may see")
    return repository, schedule


def views(the: Services, grant: Grant) -> list[ScheduleView]:
    """Return all schedules that the grant's holder may see; one that cannot be read is the operator's to see."""
    found = []
    for repository, name in all_schedules(the.settings):
        try:
            schedule = repository.read(name)
            if grant.may_see(schedule.tenant):
                found.append(_view(overview(repository, name, the.settings), schedule.tenant))
        except WorkerError as error:
            if grant.tenants is None:
                found.append(_view(Overview(name, error=str(error)), ""))
    return found


def _view(one: Overview, tenant: str) -> ScheduleView:
    return ScheduleView.model_validate({**one.as_dict(), "tenant": tenant})


@router.get("/v1/schedules", responses=described())
def schedules(grant: Reader, the: The) -> ScheduleList:
    """List schedules: when they run next, how the last run went, and what is wrong."""
    return ScheduleList(schedules=views(the, grant))


@router.get("/v1/schedules/{name}", responses=described(404, 409))
def show(name: Name, grant: Reader, the: The) -> ScheduleView:
    """Show a schedule, with its last run."""
    repository, schedule = found_schedule(the, grant, name)
    return _view(overview(repository, name, the.settings), schedule.tenant)


@router.post("/v1/schedules", status_code=201, responses=described(409))
def add(
    asked: ScheduleRequest, grant: Operator, the: The, response: Response, key: IdempotencyKey = None
) -> ScheduleView:
    """Add a schedule. With `every` the first run is at once; else at the first moment of `cron`."""
    tenant = tenant_for(grant, asked.tenant)
    for what, url in (("source", asked.source), ("destination", asked.destination)):
        check_place(grant, the.checked(url, what), what)
    if not (asked.cron or asked.every or asked.on_change):
        raise BadRequest("nothing says when it should run: give cron, every or on_change")

    def act(_: str | None) -> dict[str, Any]:
        fields = asked.model_dump(exclude={"cron", "timezone", "every"})
        fields |= {
            "recipe": recipe_fields(asked.recipe),
            "tenant": tenant,
            "on_change": tuple(asked.on_change),
            "exclude": tuple(asked.exclude),
            "trigger": trigger(asked.cron, asked.timezone, asked.every or (None if asked.cron else DEFAULT_EVERY)),
        }
        schedule = add_schedule(fields, the.settings)
        note_schedule_act(schedule, grant.name, "add", the.settings)
        return show(schedule.name, grant, the).model_dump()

    answer, _ = the.requests.once(grant, key, ["POST /v1/schedules", asked.model_dump(mode="json")], act)
    response.headers["Location"] = f"/v1/schedules/{asked.name}"
    return ScheduleView.model_validate(answer)


@router.patch("/v1/schedules/{name}", responses=described(404, 409))
def change(name: Name, asked: ScheduleChange, grant: Operator, the: The) -> ScheduleView:
    """Change a schedule from its next run on; with `fraction`, roll a recipe out to a part of the photos first."""
    repository, before = found_schedule(the, grant, name)
    fields = _changed(before, asked)
    if not fields:
        raise BadRequest("nothing to change: name a field, as /openapi.json lists them")
    after = change_schedule(repository, name, fields, the.settings)
    note_schedule_act(after, grant.name, "change", the.settings, fields=" ".join(sorted(fields)))
    return show(name, grant, the)


def _changed(before: Schedule, asked: ScheduleChange) -> dict[str, Any]:
    given = asked.model_dump(exclude_unset=True)
    fields: dict[str, Any] = {
        name: given[name] for name in ("no_face", "overwrite", "on_weak") if given.get(name) is not None
    }
    if asked.cron or asked.every:
        fields["trigger"] = trigger(asked.cron, asked.timezone or "UTC", asked.every, at_once=False)
    elif asked.timezone:
        if not before.trigger.cron:
            raise BadRequest(
                f"timezone {asked.timezone!r} is of a cron line, and this schedule has none: give cron, too"
            )
        fields["trigger"] = trigger(before.trigger.cron, asked.timezone, None)
    if asked.on_change is not None:
        fields["on_change"] = tuple(asked.on_change)
    if asked.exclude is not None:
        fields["exclude"] = tuple(asked.exclude)
    if "callback" in given:
        fields["callback"] = asked.callback or None
    return fields | _recipe(before, asked)


def _recipe(before: Schedule, asked: ScheduleChange) -> dict[str, Any]:
    if asked.recipe:
        if before.rollout and asked.fraction is None:
            raise LedgerError(
                f"schedule {before.name} has a rollout, which another recipe for all photos would drop: end it by "
                "`apf schedule promote` or `rollback` first"
            )
        return rolled_out(recipe_fields(asked.recipe), asked.fraction)
    if asked.fraction is None:
        return {}
    if before.rollout is None:
        raise BadRequest(f"fraction {asked.fraction} is of a new recipe: give recipe, too")
    return rolled_out(before.rollout.recipe, asked.fraction)


@router.post("/v1/schedules/{name}/run", responses=described(404, 409))
def run_now(name: Name, grant: Operator, the: The, key: IdempotencyKey = None) -> Fired:
    """Run a schedule now; every photo is looked at, also where nothing seems to have changed."""

    def act(_: str | None) -> dict[str, Any]:
        return fire(the, grant, name).model_dump()

    return Fired.model_validate(the.requests.once(grant, key, ["run", name], act)[0])


def fire(the: Services, grant: Grant, name: str) -> Fired:
    """Run a schedule now; raises Problem, LedgerError where it is paused or cannot run."""
    the.check_queue()
    repository, schedule = found_schedule(the, grant, name)
    if schedule.paused:
        raise LedgerError(f"schedule {name} is paused: let it go on first")
    change_schedule(repository, name, asked_now(every_photo=True), the.settings)
    note_schedule_act(schedule, grant.name, "run-now", the.settings)
    fired = run_due(the.settings, the.broker, only=name)
    if not fired and (problem := repository.problem(name)):
        raise LedgerError(f"schedule {name} cannot run: {problem.error}")
    return Fired(name=name, batches=[batch for one in fired for _, batch in one.batches(the.settings)])


@router.post("/v1/schedules/{name}/pause", responses=described(404, 409))
def pause(name: Name, grant: Operator, the: The) -> ScheduleView:
    """Fire no more until it goes on; a run that goes on is left alone."""
    return set_paused(the, grant, name, paused=True)


@router.post("/v1/schedules/{name}/go-on", responses=described(404, 409))
def go_on(name: Name, grant: Operator, the: The) -> ScheduleView:
    """Go on with a paused schedule; of all runs that it missed one is caught up."""
    return set_paused(the, grant, name, paused=False)


def set_paused(the: Services, grant: Grant, name: str, *, paused: bool) -> ScheduleView:
    """Hold a schedule, or let it go on."""
    repository, _ = found_schedule(the, grant, name)
    after = change_schedule(repository, name, {"paused": paused}, the.settings)
    note_schedule_act(after, grant.name, "pause" if paused else "go-on", the.settings)
    return show(name, grant, the)


@router.delete("/v1/schedules/{name}", status_code=204, responses=described(404, 409))
def remove(name: Name, grant: Operator, the: The) -> None:
    """Remove a schedule. Batches that it has begun go on, and outputs stay."""
    repository, schedule = found_schedule(the, grant, name)
    repository.remove(name)
    note_schedule_act(schedule, grant.name, "remove", the.settings)
