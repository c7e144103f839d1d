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

#: Each command's home below `producer.cli`, and what it is listed by: the first lines of its own help.
COMMANDS = {
    "protect": (
        "batches:protect",
        "Protect every photo of SRC into DST; only what is new or changed since the last time.",
    ),
    "private": (
        "private:private",
        "Private mode on this device: gradients of photos for a queue, and its answers put on them.",
    ),
    "status": (
        "status:status",
        "Tell how far a batch is; with --failed, which photos failed, why, and how often they were begun.",
    ),
    "report": (
        "report:report",
        "Write a page about a batch: what was protected, how it looks, what failed and what to do about it.",
    ),
    "app": (
        "app:app_command",
        "Open a page in the browser, on this machine alone, to protect photos without commands.",
    ),
    "check": (
        "check:check",
        "Tell whether recognisers still match protected photos to other photos of their people, with a page of pairs.",
    ),
    "retry": ("batches:retry", "Send the failed photos of a batch again, after a fix."),
    "resume": (
        "batches:resume_command",
        "Go on with a batch: finish its planning, and send again what has no report.",
    ),
    "pause": ("batches:pause", "Hold a batch, across restarts of anything, until `apf resume`."),
    "cancel": (
        "batches:cancel",
        "Stop a batch: shards that wait are dropped, running ones end early; `apf resume` takes it up again.",
    ),
    "forget": (
        "forget:forget",
        "Delete photos' outputs and each line of the ledger that names them, and never protect them again.",
    ),
    "remember": (
        "forget:remember",
        "Let photos be protected again that were forgotten; the next batch or schedule does.",
    ),
    "audit": (
        "forget:audit",
        "Tell who has changed what of a destination's batches and schedules, and when; no photo is named.",
    ),
    "schedule": (
        "schedules:app",
        "Protect a library again and again: on a clock, or when photos, recipe or weights have changed.",
    ),
    "listen": (
        "listen:listen",
        "Listen for a store's events, and submit new photos on the interactive lane (docs/events.md).",
    ),
    "serve": (
        "serve:serve",
        "Serve the HTTP API under /v1 (docs/api.md), until SIGTERM; /openapi.json describes it.",
    ),
    "token": ("serve:tokens", "Tokens of `apf serve`."),
    "callback": ("callbacks:app", "Try where callbacks go."),
    "worker": (
        "services:worker",
        "Start a worker on APF_BROKER_URL; every flag of `celery worker` can follow (`apf worker --help` lists them).",
    ),
    "beat": (
        "services:beat",
        "Start the clock that has workers reconcile batches and run schedules. Takes every flag of `celery beat`.",
    ),
    "reconcile": (
        "services:reconcile_command",
        "Requeue orphaned shards in every open batch; `apf beat` has a worker do so by and by.",
    ),
    "exporter": (
        "exporter:exporter_command",
        "Serve what waits and how far open batches are, for Prometheus (GET /metrics); one is enough. Ends on SIGTERM.",
    ),
    "guides": ("guides:app", "Which recognisers attack steps can climb on; fetch further ones."),
    "doctor": ("services:examine", "Check settings, queue, weights and stores, and say what to mend."),
}
#: Options behind `apf worker` and `apf beat` are Celery's, `--help` too; so with the device's commands.
PASSED_ON = {"private", "worker", "beat"}
THEIRS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": ["--apf-help"]}

for _name, (_home, _listed) in COMMANDS.items():
    lazily(app, _name, f"producer.cli.{_home}", _listed, settings=THEIRS if _name in PASSED_ON else None)


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
