"""`apf status`: progress of a batch, and whether a worker listens for the rest."""

from __future__ import annotations

from typing import Annotated

import typer

from producer.cli.console import DONE, SOME_FAILED, AsJson, Destination, errors_end_the_command
from producer.cli.progress import POLL_S, finish, follow, is_short, print_failures
from producer.cli.worker_check import Notices, listening
from workers.batches.create import find_batch
from workers.config.settings import load_settings
from workers.status.batch_status import BatchMonitor


@errors_end_the_command
def status(
    destination: Destination,
    batch: Annotated[str | None, typer.Argument(metavar="[BATCH]", help="Default: the latest.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow until the batch is done.")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="List every failed photo.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tell how far a batch is; with --failed, which photos failed, why, and how often they were begun."""
    settings = load_settings()
    ledger, batch_id = find_batch(destination, batch, settings)
    if watch:
        notice = Notices(ledger, settings)
        summary = follow(BatchMonitor(ledger, batch_id), every_s=POLL_S, show=not as_json, notice=notice)
    else:
        summary = BatchMonitor(ledger, batch_id).poll(running=True)
    if failed and not as_json:
        print_failures(summary)
        raise typer.Exit(SOME_FAILED if is_short(summary) else DONE)
    finish(summary, as_json=as_json, heard=listening(ledger, summary, settings))
