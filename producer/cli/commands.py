"""The `apf` command: its subcommands, and the modules that hold them. They parse, call and print.

A module is loaded when its command is called.
"""

from __future__ import annotations

import io
import logging
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from producer.cli.lazy import lazily

app = typer.Typer(
    help="Protect the faces in photos against face recognition: an album, an upload, or a whole library.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

#: Each command's home below `producer.cli`, in the order in which they are listed.
COMMANDS = {
    "protect": "batches:protect",
    "private": "private:private",
    "status": "status:status",
    "report": "report:report",
    "app": "app:app_command",
    "check": "check:check",
    "retry": "batches:retry",
    "resume": "batches:resume_command",
    "pause": "batches:pause",
    "cancel": "batches:cancel",
    "forget": "forget:forget",
    "remember": "forget:remember",
    "audit": "forget:audit",
    "schedule": "schedules:app",
    "listen": "listen:listen",
    "serve": "serve:serve",
    "token": "serve:tokens",
    "callback": "callbacks:app",
    "worker": "services:worker",
    "beat": "services:beat",
    "reconcile": "services:reconcile_command",
    "exporter": "exporter:exporter_command",
    "guides": "guides:app",
    "doctor": "services:examine",
}
#: Options behind `apf worker` and `apf beat` are Celery's, `--help` too; so with the device's commands.
PASSED_ON = {"private", "worker", "beat"}
THEIRS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": ["--apf-help"]}

for _name, _home in COMMANDS.items():
    lazily(app, _name, f"producer.cli.{_home}", settings=THEIRS if _name in PASSED_ON else None)


def _print_version(asked: bool) -> None:
    if asked:
        print("apf", version("apf-protect"))
        raise typer.Exit


@app.callback()
def _before_any_command(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version, and end.")
    ] = False,
) -> None: ...


def main() -> None:
    """Entry point of the `apf` script."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that the terminal cannot show is escaped
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    app()
