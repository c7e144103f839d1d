"""The `apf` command: which functions its subcommands are. They parse, call what does the work, and print."""

from __future__ import annotations

import logging

import typer

from producer import batch_commands, callback_command, schedule_command, service_commands
from producer.exporter_command import exporter_command
from producer.listen_command import listen
from producer.private_command import private
from producer.report_command import report

app = typer.Typer(
    help="Protect the faces in photos against face recognition: an album, an upload, or a whole library.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

#: What follows `apf worker` and `apf beat` is Celery's, its `--help` too; so with the device's commands.
THEIRS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": ["--apf-help"]}

app.command("protect")(batch_commands.protect)
app.command("private", context_settings=THEIRS)(private)
app.command("status")(batch_commands.status)
app.command("report")(report)
app.command("retry")(batch_commands.retry)
app.command("resume")(batch_commands.resume_command)
app.command("pause")(batch_commands.pause)
app.command("cancel")(batch_commands.cancel)
app.add_typer(schedule_command.app, name="schedule")
app.command("listen")(listen)
app.add_typer(callback_command.app, name="callback")
app.command("worker", context_settings=THEIRS)(service_commands.worker)
app.command("beat", context_settings=THEIRS)(service_commands.beat)
app.command("reconcile")(service_commands.reconcile_command)
app.command("exporter")(exporter_command)
app.command("doctor")(service_commands.examine)


def main() -> None:
    """Entry point of the `apf` script."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    app()
