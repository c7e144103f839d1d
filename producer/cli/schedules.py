"""`apf schedule`: protect libraries again and again."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Annotated, Any

import typer

from apf.recipe import DEFAULT_RECIPE, recipe_fields
from producer.cli.console import (
    AsJson,
    Exclude,
    NoFace,
    OnWeak,
    OnWeakOption,
    Overwrite,
    Private,
    echo,
    errors_end_the_command,
    fail,
)
from producer.cli.lazy import lazily
from producer.cli.schedule_fields import new_recipe, new_trigger, warn_of_a_slower_clock
from producer.cli.schedule_tables import print_one, print_table
from workers.config.settings import Settings, load_settings
from workers.errors import LedgerError
from workers.ledger.audit import local_actor
from workers.schedules.edit import (
    DEFAULT_EVERY,
    add_schedule,
    asked_now,
    change_schedule,
    changes,
    note_schedule_act,
    trigger,
)
from workers.schedules.repository import ScheduleRepository, find_schedule
from workers.schedules.status import overview, overviews

app = typer.Typer(
    help="Protect a library again and again: on a clock, or when photos, recipe or weights have changed.",
    no_args_is_help=True,
)


#: The commands that may send shards: they load the queue, and the others do without.
RUNNING = ("run-now", "tick", "compare", "promote", "rollback")
#: Between two looks at a schedule that is waited for.
POLL_S = 1.0


Name = Annotated[str, typer.Argument(metavar="NAME", help="The schedule's name.")]
Cron = Annotated[str | None, typer.Option(help="Minute, hour, day, month, weekday: '0 3 * * *' is nightly at three.")]
Every = Annotated[str | None, typer.Option(help="A time span such as 15m, 6h or 1d.")]
Zone = Annotated[str | None, typer.Option(help="Of the cron line, such as Europe/Berlin. Default: UTC.")]
OnChange = Annotated[
    list[str] | None,
    typer.Option(
        "--on-change",
        help="Run only if something has changed: recipe (it or the weights), new (photos); may be given twice.",
    ),
]
Now = Annotated[bool, typer.Option("--now", help="At once, and not only at the next moment.")]


@app.command()
@errors_end_the_command
def add(
    name: Name,
    source: Annotated[str, typer.Argument(metavar="SRC", help="s3://bucket/prefix, file:// or folder.")],
    destination: Annotated[str, typer.Argument(metavar="DST", help="s3://bucket/prefix, file:// or folder.")],
    cron: Cron = None,
    timezone: Zone = None,
    every: Every = None,
    on_change: OnChange = None,
    recipe: Annotated[str, typer.Option(help="fast, light, standard, strong, or a TOML file (kept).")] = DEFAULT_RECIPE,
    private: Private = False,
    no_face: Annotated[NoFace, typer.Option(help="What to do with a photo that has no face.")] = NoFace.copy,
    overwrite: Overwrite = False,
    on_weak: Annotated[OnWeak, OnWeakOption] = OnWeak.publish,
    tenant: Annotated[str, typer.Option(help="Whose photos these are: tenants get equal shares.")] = "",
    exclude: Exclude = None,
    callback: Annotated[str | None, typer.Option(help="Told of the end of each batch by a POST.")] = None,
    as_json: AsJson = False,
) -> None:
    """Add a schedule. With --every the first run is at once; else at the first moment of --cron."""
    settings = load_settings()
    if not (cron or every or on_change):
        fail("when should it run? Give --cron, --every or --on-change")
    fields = {
        "name": name, "source": source, "destination": destination, "recipe": recipe_fields(recipe),
        "trigger": trigger(cron, timezone or "UTC", every or (None if cron else DEFAULT_EVERY)),
        "on_change": changes(on_change or ()), "no_face": no_face.value, "tenant": tenant, "callback": callback,
        "private": private, "overwrite": overwrite, "exclude": tuple(exclude or ()), "on_weak": on_weak.value,
    }  # fmt: skip
    schedule = add_schedule(fields, settings)
    note_schedule_act(schedule, local_actor(), "add", settings)
    warn_of_a_slower_clock(schedule.trigger, settings)
    _show(find_schedule(name, settings), name, settings, as_json=as_json)


@app.command()
@errors_end_the_command
def change(
    name: Name,
    cron: Cron = None,
    timezone: Zone = None,
    every: Every = None,
    on_change: OnChange = None,
    always: Annotated[
        bool, typer.Option("--always", help="Run at each moment, whether anything changed or not.")
    ] = False,
    no_face: Annotated[NoFace | None, typer.Option(help="What to do with new photos that have no face.")] = None,
    overwrite: Annotated[
        bool | None,
        typer.Option(help="Whether files in DST that apf did not write for the very same photo are replaced."),
    ] = None,
    on_weak: Annotated[OnWeak | None, OnWeakOption] = None,
    tenant: Annotated[str | None, typer.Option(help='Whose photos these are; "" is nobody\'s.')] = None,
    callback: Annotated[str | None, typer.Option(help='Told of the end of each batch; "" tells nobody.')] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Leave out what matches these instead of what was said before."),
    ] = None,
    exclude_nothing: Annotated[
        bool, typer.Option("--exclude-nothing", help="Drop the patterns that were said before.")
    ] = False,
    recipe: Annotated[str | None, typer.Option(help="fast, light, standard, strong, or a TOML file (kept).")] = None,
    fraction: Annotated[
        float | None, typer.Option(help="Give the recipe to this part of the photos first: 0.05 is 5 %.")
    ] = None,
    now: Now = False,
    as_json: AsJson = False,
) -> None:
    """Change a schedule from its next run on; with --fraction, roll a recipe out to a part of the photos first."""
    settings = load_settings()
    repository = find_schedule(name, settings)
    before = repository.read(name)
    fields: dict[str, Any] = {}
    if cron or every or timezone:
        fields["trigger"] = new_trigger(before, cron, timezone, every)
    if on_change or always:
        fields["on_change"] = () if always else changes(on_change or ())
    if no_face is not None:
        fields["no_face"] = no_face.value
    if overwrite is not None:
        fields["overwrite"] = overwrite
    if on_weak is not None:
        fields["on_weak"] = on_weak.value
    if tenant is not None:
        fields["tenant"] = tenant
    if callback is not None:
        fields["callback"] = callback or None
    if exclude or exclude_nothing:
        fields["exclude"] = tuple(exclude or ())
    if recipe or fraction is not None:
        fields |= new_recipe(before, recipe, fraction)
    if now:
        fields |= asked_now(every_photo=False)
    if not fields:
        fail("nothing to change: `apf schedule change --help` lists what there is")
    after = change_schedule(repository, name, fields, settings)
    note_schedule_act(after, local_actor(), "change", settings, fields=" ".join(sorted(fields)))
    if every:
        warn_of_a_slower_clock(after.trigger, settings)
    _show(find_schedule(name, settings), name, settings, as_json=as_json)


@app.command("list")
@errors_end_the_command
def list_command(as_json: AsJson = False) -> None:
    """List all schedules: when they run next, how the last run went, and what is wrong."""
    found = list(overviews(load_settings()))
    if as_json:
        print(json.dumps({"schedules": [one.as_dict() for one in found]}))
    else:
        print_table(found)


@app.command()
@errors_end_the_command
def show(
    name: Name,
    wait: Annotated[bool, typer.Option("--wait", help="First wait until nothing is due and no run goes on.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show one schedule, with its last run."""
    settings = load_settings()
    repository = find_schedule(name, settings)
    while wait and not (one := overview(repository, name, settings)).at_rest:
        if one.error:
            fail(one.error)
        time.sleep(POLL_S)
    _show(repository, name, settings, as_json=as_json)


@app.command()
@errors_end_the_command
def pause(name: Name) -> None:
    """Fire no more until `apf schedule go-on`; a run that goes on is left alone (`apf pause` holds it)."""
    _set_paused(name, True)
    echo(f"schedule {name} is paused; it goes on with: apf schedule go-on {name}")


@app.command("go-on")
@errors_end_the_command
def go_on(name: Name) -> None:
    """Go on with a paused schedule; of all runs that it missed one is caught up."""
    _set_paused(name, False)
    echo(f"schedule {name} goes on")


app.command("resume", hidden=True)(go_on)


@app.command()
@errors_end_the_command
def remove(name: Name) -> None:
    """Remove a schedule. Batches that it has begun go on, and outputs stay."""
    settings = load_settings()
    repository = find_schedule(name, settings)
    removed = None
    with suppress(LedgerError):  # one that cannot be read goes all the same
        removed = repository.read(name)
    repository.remove(name)
    if removed:
        note_schedule_act(removed, local_actor(), "remove", settings)
    echo(f"schedule {name} is removed")


for _name in RUNNING:
    lazily(app, _name, f"producer.cli.schedule_runs:{_name.replace('-', '_')}")


def _set_paused(name: str, paused: bool) -> None:
    settings = load_settings()
    after = change_schedule(find_schedule(name, settings), name, {"paused": paused}, settings)
    note_schedule_act(after, local_actor(), "pause" if paused else "go-on", settings)


def _show(repository: ScheduleRepository, name: str, settings: Settings, *, as_json: bool) -> None:
    one = overview(repository, name, settings)
    if as_json:
        print(json.dumps(one.as_dict()))
    else:
        print_one(one)
