"""The `apf` command: parses, calls the functions beside it, and prints."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from typing import Annotated, NoReturn, ParamSpec, TypeVar

import typer
from rich.markup import escape

from producer import batch as batches
from producer import doctor, schedule_command
from producer.batch import Asked
from producer.callback_command import app as callback_app
from producer.callback_command import await_callback, check_callback_here
from producer.exporter_command import exporter_command
from producer.listen_command import listen
from producer.report import console, follow, print_failures, print_summary
from producer.report_command import report
from producer.terminal import (
    DONE,
    INTERRUPTED,
    SOME_FAILED,
    AsJson,
    BatchId,
    Destination,
    Wait,
    errors_end_the_command,
    refuse,
    say,
)
from workers.allowed import check_reachable
from workers.app import make_app
from workers.embedded import embedded_worker
from workers.errors import StoreError, WorkerError
from workers.job import BULK, INTERACTIVE, Batch
from workers.lanes import expanded
from workers.ledger import Ledger, Stop
from workers.reconcile import close, minder, plan_and_send, reconcile, resume
from workers.registry import OPEN, check_registry, roots
from workers.sending import BrokerError, Sender, choose_queue, waiting
from workers.settings import Settings, check_worker, load_settings
from workers.store import open_store
from workers.summary import json_object
from workers.watch import BatchSummary, BatchWatch

#: Between two looks at the ledger: of a worker in this process, and of workers elsewhere.
EMBEDDED_POLL_S, QUEUE_POLL_S = 0.2, 2.0

#: Celery's own, of `apf worker` and `apf beat`.
HELP = "--help"

app = typer.Typer(
    help="Protect the faces in photos against face recognition: an album, an upload, or a whole library.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(callback_app, name="callback")
app.command()(report)
app.add_typer(schedule_command.app, name="schedule")


app.command("exporter")(exporter_command)


class NoFace(StrEnum):
    copy = "copy"
    skip = "skip"


class LaneName(StrEnum):
    interactive = INTERACTIVE
    bulk = BULK


P = ParamSpec("P")
T = TypeVar("T")

app.command("listen")(listen)


@app.command()
@errors_end_the_command
def protect(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Folder, file:// or s3://bucket/prefix.")],
    destination: Destination,
    recipe: Annotated[str, typer.Option(help="light, standard, strong, or a TOML file.")] = "standard",
    wait: Wait = True,
    no_face: Annotated[NoFace, typer.Option(help="What to do with a photo that has no face.")] = NoFace.copy,
    lane: Annotated[LaneName, typer.Option(help="interactive overtakes bulk on shared workers.")] = LaneName.bulk,
    tenant: Annotated[str, typer.Option(help="Whose photos these are: tenants get equal shares of a lane.")] = "",
    callback: Annotated[
        str | None, typer.Option(metavar="URL", help="POST there when the batch is done (docs/callbacks.md).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Protect every photo of SRC into DST; only what is new or changed since the last time."""
    settings = load_settings()
    _refuse_what_cannot_run(settings, wait)
    if callback is not None:
        check_callback_here(callback, settings)
    asked = Asked(recipe=recipe, no_face=no_face.value, lane=lane.value, tenant=tenant, callback=callback)
    ledger, batch = batches.new_batch(source, destination, asked, settings)
    with suppress(BrokerError):  # told below, when the batch is kept in the ledger
        batch = batch.model_copy(update={"queue": choose_queue(make_app(settings), batch.lane, tenant)})
    batches.write_new(ledger, batch, settings)

    def send(sender: Sender) -> None:
        plan_and_send(ledger, batch.id, sender, settings)

    _run(ledger, batch.id, send, settings, wait=wait, as_json=as_json)


@app.command()
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
    ledger = batches.find_ledger(destination, settings)
    batch_id = batch or batches.latest_batch(ledger, destination)
    if watch:
        summary = follow(BatchWatch(ledger, batch_id), every_s=QUEUE_POLL_S, show=not as_json)
    else:
        summary = BatchWatch(ledger, batch_id).poll(running=True)
    if failed and not as_json:
        print_failures(summary)
        raise typer.Exit(SOME_FAILED if summary.failed else DONE)
    _finish(summary, as_json=as_json)


@app.command()
@errors_end_the_command
def retry(destination: Destination, batch: BatchId, wait: Wait = True, as_json: AsJson = False) -> None:
    """Send the failed photos of a batch again, after a fix."""
    settings = load_settings()
    _refuse_what_cannot_run(settings, wait)
    ledger = batches.find_ledger(destination, settings)

    def send(sender: Sender) -> None:
        count = batches.retry(ledger, batch, sender, settings)
        console.print(f"{count} failed photos sent again", highlight=False)

    _run(ledger, batch, send, settings, wait=wait, as_json=as_json)


@app.command("resume")
@errors_end_the_command
def resume_command(destination: Destination, batch: BatchId, wait: Wait = True, as_json: AsJson = False) -> None:
    """Go on with a batch: finish its planning, and send again what has no report."""
    settings = load_settings()
    _refuse_what_cannot_run(settings, wait)
    ledger = batches.find_ledger(destination, settings)

    def send(sender: Sender) -> None:
        count = resume(ledger, batch, sender, settings)
        console.print(f"{count} shards sent again", highlight=False)

    _run(ledger, batch, send, settings, wait=wait, as_json=as_json)


@app.command()
@errors_end_the_command
def cancel(destination: Destination, batch: BatchId) -> None:
    """Stop a batch: shards that wait are dropped, running ones end early; `apf resume` takes it up again."""
    _stop(destination, batch, "cancelled")


@app.command()
@errors_end_the_command
def pause(destination: Destination, batch: BatchId) -> None:
    """Hold a batch, across restarts of anything, until `apf resume`."""
    _stop(destination, batch, "paused")


def _stop(destination: str, batch: str, how: Stop) -> None:
    ledger = batches.find_ledger(destination, load_settings())
    if _is_done(ledger, ledger.read_batch(batch)):  # an unknown batch is an error, not a marker
        refuse(f"batch {batch} is done already, so it cannot be {how}: nothing of it is left to stop")
    ledger.stop(batch, how)
    say(f"batch {batch} is {how}; go on with: apf resume {destination} {batch}")


def _is_done(ledger: Ledger, batch: Batch) -> bool:
    # The listing first: of a large batch that runs, it takes long to read every report.
    listed = batch.planned and ledger.reported_shards(batch.id) >= set(range(batch.shards))
    return listed and not ledger.open_shards(batch)


@app.command("reconcile")
@errors_end_the_command
def reconcile_command(
    urls: Annotated[list[str] | None, typer.Argument(metavar="[URL]...", help="Default: the allowed ones.")] = None,
    as_json: AsJson = False,
) -> None:
    """Send again what nobody is at, in every open batch; `apf beat` has a worker do so by and by."""
    settings = load_settings()
    if not settings.broker_url:
        refuse("without a queue there is nothing to reconcile: set APF_BROKER_URL, or use apf resume")
    celery = make_app(settings)
    where = urls or roots(settings)
    if not where:
        refuse("no place to look for open batches: name destinations, or set APF_ALLOWED_URLS or APF_LEDGER_URL")
    waiting(celery)  # the pass leaves a batch for the next time where the queue refuses: good for a clock, not here
    problems = _unlisted(where, settings)
    sender = Sender(celery)
    send, ask = _noting(sender, problems), _noting(lambda: waiting(celery), problems)
    notify = _noting(sender.callback, problems)
    sent = reconcile([url for url in where if url not in problems], send, settings, ask, notify)
    if as_json:
        print(json.dumps(sent))
    for batch_id, count in sent.items():
        say(f"batch {batch_id}: {count} shards sent")
    if problems:
        refuse("not everything was looked after: " + "; ".join(problems.values()))


def _unlisted(urls: list[str], settings: Settings) -> dict[str, str]:
    """What keeps open batches from being found, by URL."""
    problems = {}
    for url in urls:
        try:
            next(open_store(url, s3=settings.s3).list(OPEN), None)
        except WorkerError as error:
            problems[url] = str(error)
    return problems


def _noting(ask: Callable[P, T], problems: dict[str, str]) -> Callable[P, T]:
    """`ask`, but what the queue refuses is noted before it is raised."""

    def noting(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return ask(*args, **kwargs)
        except BrokerError as error:
            problems["queue"] = str(error)
            raise

    return noting


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": ["--apf-help"]}
)
@errors_end_the_command
def beat(context: typer.Context) -> None:
    """Start the clock that has workers reconcile batches and run schedules. Takes every flag of `celery beat`."""
    if HELP not in context.args:
        settings = load_settings()
        check_worker(settings)
        check_registry(settings)
    _become(["beat", *context.args])


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": ["--apf-help"]}
)
@errors_end_the_command
def worker(context: typer.Context) -> None:
    """Start a worker on APF_BROKER_URL; every flag of `celery worker` can follow (`apf worker --help` lists them)."""
    if HELP not in context.args:
        settings = load_settings()
        check_worker(settings)
        check_reachable(settings.allowed_for_batches, settings.s3)
        doctor.check_eviction(settings)
    level = [] if any(arg.startswith(("-l", "--loglevel")) for arg in context.args) else ["--loglevel", "INFO"]
    _become(["worker", *level, *_lanes_expanded(context.args)])


def _become(arguments: list[str]) -> NoReturn:
    # SIGTERM gives the shard back within APF_SHUTDOWN_GRACE_S instead of waiting for its end.
    environment = {"REMAP_SIGTERM": "SIGQUIT", **os.environ}
    # The app wants settings, which help does without.
    app_of_ours = [] if HELP in arguments else ["-A", "workers.celeryapp"]
    # Celery's banners are no log.
    quiet = ["--quiet"] if os.environ.get("APF_LOG_FORMAT") == "json" else []
    command = [sys.executable, "-m", "celery", *app_of_ours, *quiet, *arguments]
    os.execve(sys.executable, command, environment)  # noqa: S606  the user's own arguments, no shell


@app.command("doctor")
@errors_end_the_command
def examine(
    urls: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[URL]...",
            help="Stores to list, read and, where that is allowed, write: small objects under .apf/doctor/, "
            "deleted again.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check settings, queue, weights and stores, and say what to mend."""
    findings = doctor.examine(load_settings(), urls or [])
    if as_json:
        print(json.dumps([finding.as_dict() for finding in findings]))
    else:
        for finding in findings:
            mark = "[green]ok[/green]  " if finding.ok else "[red]bad[/red] "
            console.print(f"{mark} {escape(finding.check)}: {escape(finding.detail)}", highlight=False, soft_wrap=True)
    raise typer.Exit(DONE if all(finding.ok for finding in findings) else SOME_FAILED)


def _run(
    ledger: Ledger, batch_id: str, send: Callable[[Sender], None], settings: Settings, *, wait: bool, as_json: bool
) -> None:
    """Send shards and follow them, on the queue or with a worker in this process."""
    celery = make_app(settings)
    watch = BatchWatch(ledger, batch_id)
    sender = Sender(celery)
    mind = minder(ledger, batch_id, sender, settings, lambda: waiting(celery))
    with _resume_hint(ledger, batch_id):
        if settings.broker_url:
            send(sender)
            summary = follow(watch, every_s=QUEUE_POLL_S, show=not as_json, on_poll=mind) if wait else watch.poll()
        else:
            with embedded_worker(celery) as check:
                send(sender)
                summary = follow(watch, every_s=EMBEDDED_POLL_S, show=not as_json, on_poll=lambda: (check(), mind()))
                summary = await_callback(watch, summary, sender.callback, check)
    if summary.done:
        close(ledger, summary.batch, settings, sender.callback if settings.broker_url else None)
    _finish(summary, as_json=as_json, waited=wait)


def _finish(summary: BatchSummary, *, as_json: bool, waited: bool = False) -> NoReturn:
    if as_json:
        print(json.dumps(json_object(summary)))
    else:
        print_summary(summary)
    left = waited and (summary.pending or summary.stopped)
    raise typer.Exit(SOME_FAILED if summary.failed or summary.missing or left else DONE)


@contextmanager
def _resume_hint(ledger: Ledger, batch_id: str) -> Iterator[None]:
    destination = ledger.read_batch(batch_id).destination  # at first: later the store may be what fails
    again = f"apf resume {destination} {batch_id}"
    try:
        yield
    except KeyboardInterrupt:
        say(f"\ninterrupted; go on with: {again}")
        raise typer.Exit(INTERRUPTED) from None
    except (BrokerError, StoreError) as error:
        refuse(f"{error}; batch {batch_id} is kept, then go on with: {again}")


def _refuse_what_cannot_run(settings: Settings, wait: bool) -> None:
    if settings.broker_url:
        return
    if not wait:
        refuse("--no-wait needs a queue that others work on: set APF_BROKER_URL, or leave the flag away")
    if missing := doctor.missing_worker_parts():
        refuse(f"without a queue this command does the work itself, but {', '.join(missing)} is not installed: "
                "install the worker extra, or set APF_BROKER_URL")  # fmt: skip


def _lanes_expanded(args: list[str]) -> list[str]:
    """`-Q interactive` means all of the lane's queues."""
    found: list[str] = []
    for arg in args:
        before = found[-1] if found else ""
        if before in ("-Q", "--queues"):
            found.append(",".join(expanded(arg.split(","))))
        elif arg.startswith("--queues="):
            found.append("--queues=" + ",".join(expanded(arg.removeprefix("--queues=").split(","))))
        else:
            found.append(arg)
    return found


def main() -> None:
    """Entry point of the `apf` script."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    app()
