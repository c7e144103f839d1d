"""`apf schedule run-now`, `tick` and the commands of a rollout."""

from __future__ import annotations

import importlib
import json
from typing import Annotated

import typer

from apf.extras import lacking
from producer.cli.console import AsJson, echo, errors_end_the_command, fail
from producer.cli.schedule_tables import print_comparison
from producer.cli.schedule_work import finish, fire, hint_how_to_go_on, work
from workers.batches.create import find_ledger
from workers.config.settings import load_settings
from workers.ledger.audit import local_actor
from workers.ledger.lifecycle import cancel
from workers.schedules.compare import sides
from workers.schedules.edit import asked_now, change_schedule, note_schedule_act
from workers.schedules.repository import ScheduleRepository, find_schedule
from workers.schedules.status import unfinished
from workers.store import open_store

Name = Annotated[str, typer.Argument(metavar="NAME", help="The schedule's name.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Stay until its batches are done.")]
Now = Annotated[bool, typer.Option("--now", help="At once, and not only at the next moment.")]


@errors_end_the_command
def run_now(name: Name, wait: Wait = True, as_json: AsJson = False) -> None:
    """Run a schedule now; every photo is looked at, also where nothing seems to have changed."""
    settings = load_settings()
    repository = find_schedule(name, settings)
    if repository.read(name).paused:
        fail(f"schedule {name} is paused: apf schedule go-on {name}")
    schedule = change_schedule(repository, name, asked_now(every_photo=True), settings)
    note_schedule_act(schedule, local_actor(), "run-now", settings)
    with hint_how_to_go_on(settings, name):
        fired = fire(settings, only=name)
        if not fired:
            _say_why_not(repository, name)
        done = work(fired, settings, wait=wait, show=not as_json)
    finish(done, as_json=as_json, waited=wait or not settings.broker_url)


@errors_end_the_command
def tick(as_json: AsJson = False) -> None:
    """Run what is due, for a clock of your own such as cron; with a queue `apf beat` does this by itself.

    Without a queue this command does the work itself, also what an earlier one has left.
    """
    settings = load_settings()
    waited = not settings.broker_url
    with hint_how_to_go_on(settings):
        done = work(fire(settings), settings, wait=waited, show=not as_json)
    finish(done, as_json=as_json, waited=waited)


@errors_end_the_command
def compare(
    name: Name,
    sample: Annotated[int, typer.Option(min=0, help="Measure how so many outputs of each look; 0: none.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Compare a rollout's recipe with the schedule's own, on the same photos; how they look, on samples of each."""
    settings = load_settings()
    repository = find_schedule(name, settings)
    schedule = repository.read(name)
    found = sides(schedule, repository.state(name), settings, find_ledger(schedule.destination, settings))
    new, old = (side.as_dict() for side in found)
    if sample and schedule.private:
        echo("how photos look is not measured: they are with their owners")
    elif sample and (reason := lacking("cpu")):
        echo(f"how photos look is not measured: {reason}")
    elif sample:
        samples = importlib.import_module("workers.schedules.sample_quality")
        stores = [open_store(url, s3=settings.s3) for url in (schedule.source, schedule.destination)]
        keys = [side.sample(sample) for side in found]
        for side, figures in zip((new, old), samples.measured(keys, found[0].recipe, *stores, settings), strict=True):
            side.update(figures)
    if as_json:
        print(json.dumps({"name": name, "fraction": schedule.rollout and schedule.rollout.fraction, "new": new,
                          "old": old}))  # fmt: skip
    else:
        print_comparison(new, old)


@errors_end_the_command
def promote(name: Name, now: Now = False) -> None:
    """Give a rollout's recipe to all photos."""
    settings = load_settings()
    repository = find_schedule(name, settings)
    rollout = repository.read(name).rollout
    if rollout is None:
        fail(f"schedule {name} has no rollout: start one with apf schedule change {name} --recipe NEW --fraction 0.05")
    fields = {"recipe": rollout.recipe, "rollout": None, **(asked_now(every_photo=False) if now else {})}
    after = change_schedule(repository, name, fields, settings)
    note_schedule_act(after, local_actor(), "promote", settings, recipe=str(rollout.recipe["name"]))
    echo(f"schedule {name} has recipe {rollout.recipe['name']} for all photos from its next run on")


@errors_end_the_command
def rollback(name: Name) -> None:
    """Drop a rollout: what has its recipe gets the schedule's own again, at once; its batches are cancelled."""
    settings = load_settings()
    repository = find_schedule(name, settings)
    schedule = repository.read(name)
    if schedule.rollout is None:
        fail(f"schedule {name} has no rollout to drop")
    change_schedule(repository, name, {"rollout": None, **asked_now(every_photo=False)}, settings)
    note_schedule_act(schedule, local_actor(), "rollback", settings)
    for ledger, batch in unfinished(repository, name, settings, rollout=True):
        cancel(ledger, batch, settings)
        echo(f"batch {batch.id} is cancelled")
    when = "when it goes on" if schedule.paused else "now"
    echo(f"schedule {name} has recipe {schedule.recipe['name']} for all photos, and runs {when}")


def _say_why_not(repository: ScheduleRepository, name: str) -> None:
    if problem := repository.problem(name):
        fail(problem.error)
    echo(
        f"schedule {name} runs once its last run is over, or a worker has fired it just now; "
        f"look with: apf schedule show {name}"
    )
