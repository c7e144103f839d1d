"""`apf forget`, `remember` and `audit`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from producer.cli.console import SOME_FAILED, AsJson, Destination, console, echo, errors_end_the_command, fail
from workers.batches.create import ledgers_of
from workers.config.settings import load_settings
from workers.deletion.forget import WAIT_S, Forgotten
from workers.deletion.forget import forget as forget_photos
from workers.deletion.forget import remember as remember_photos
from workers.ledger.audit import acts, local_actor
from workers.schedules.trigger import seconds
from workers.store import canonical_url

Keys = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY]...", help="Photos, as they are called below DST and SRC.")
]
KeysFile = Annotated[
    str | None, typer.Option("--from", metavar="FILE", help="Read further keys, one a line; - is standard input.")
]


@errors_end_the_command
def forget(
    destination: Destination,
    keys: Keys = None,
    file: KeysFile = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    wait: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="At the most, for shards that have begun.")
    ] = WAIT_S,
    as_json: AsJson = False,
) -> None:
    """Delete photos' outputs and each line of the ledger that names them, and never protect them again."""
    settings, wanted = load_settings(), _keys(keys, file)
    if not (dry_run or yes):
        typer.confirm(f"Delete the outputs of {len(wanted)} photos in {destination}, for good?", abort=True, err=True)
    found = forget_photos(destination, wanted, settings, actor=local_actor(), dry_run=dry_run, wait_s=wait)
    if as_json:
        print(json.dumps(asdict(found)))
    else:
        _tell(found, dry_run=dry_run)
    if found.left:
        raise typer.Exit(SOME_FAILED)


@errors_end_the_command
def remember(destination: Destination, keys: Keys = None, file: KeysFile = None) -> None:
    """Let photos be protected again that were forgotten; the next batch or schedule does."""
    count = remember_photos(destination, _keys(keys, file), load_settings(), actor=local_actor())
    echo(f"{count} photos are no longer forgotten")


@errors_end_the_command
def audit(
    destination: Destination,
    since: Annotated[
        str | None, typer.Option(metavar="WHEN", help="A span, as in 7d or 12h, or a date; default: all.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell who has changed what of a destination's batches and schedules, and when; no photo is named."""
    settings, begin = load_settings(), _moment(since)
    lines = [act for ledger in ledgers_of(canonical_url(destination), settings) for act in acts(ledger, begin)]
    for act in sorted(lines, key=lambda act: act.at):
        if as_json:
            print(act.model_dump_json())
        else:
            of = " ".join(filter(None, (act.batch, act.schedule)))
            facts = " ".join(f"{name}={value}" for name, value in act.facts.items())
            print(f"{act.at}  {act.who}  {act.act}  {of}  {facts}".rstrip())


def _keys(keys: list[str] | None, file: str | None) -> list[str]:
    if file is None:
        return keys or []
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"the keys in {file} cannot be read ({error}): give a text of UTF-8 with a key on each line")
    return [*(keys or []), *filter(None, text.splitlines())]


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.now(UTC) - timedelta(seconds=seconds(text))
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        fail(f"--since {text!r} is no moment: write a span as 7d or 12h, or a date as 2026-05-31 or 2026-05-31T12:00")
    return moment.astimezone(UTC)


def _tell(found: Forgotten, *, dry_run: bool) -> None:
    verbs = ("would be deleted", "would be mended") if dry_run else ("deleted", "mended")
    echo(f"{found.outputs} outputs {verbs[0]}, {found.records} records of the ledger {verbs[1]}")
    if found.batches:
        echo(f"{len(found.batches)} batches deleted, as no photo is left of them")
    for one in found.left:
        console.print(f"[red]left:[/red] {escape(one)}", highlight=False, soft_wrap=True)
    if not (dry_run or found.left):
        echo(f"{found.keys} photos are forgotten; apf remember lets them be protected again")
