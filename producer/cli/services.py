"""`apf worker`, `beat`, `reconcile` and `doctor`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, NoReturn

import typer
from celery import Celery
from rich.markup import escape

from producer.cli.console import DONE, SOME_FAILED, AsJson, check_can_work, console, echo, errors_end_the_command, fail
from producer.cli.serve import examine_serving
from producer.doctor import checks
from workers.batches.rescue import reconcile
from workers.broker.app import make_app
from workers.broker.client import Broker, BrokerError
from workers.broker.queue_state import QueueSnapshot
from workers.broker.queues import expanded
from workers.config.access import check_reachable
from workers.config.settings import Settings, check_worker, load_settings
from workers.core.records import Batch
from workers.decoding.decoder_process import look as look_at_cage
from workers.deletion.retention import prune_ended
from workers.errors import WorkerError
from workers.ledger.open_batches import OPEN, check_registry, roots
from workers.store import open_store

#: Celery's own, of `apf worker` and `apf beat`.
HELP = "--help"
#: Gossip of workers has no reader here, and Redis hands it on from each to all: for ten times the workers a hundred
#: times as much. And a worker that starts would wait a second for the others' answers.
EACH_FOR_ITSELF = ("--without-gossip", "--without-mingle")


@errors_end_the_command
def reconcile_command(
    urls: Annotated[list[str] | None, typer.Argument(metavar="[URL]...", help="Default: the allowed ones.")] = None,
    as_json: AsJson = False,
) -> None:
    """Requeue orphaned shards in every open batch; `apf beat` has a worker do so by and by."""
    settings = load_settings()
    if not settings.broker_url:
        fail("without a queue there is nothing to reconcile: set APF_BROKER_URL, or use apf resume")
    broker = _RecordingBroker(make_app(settings))
    where = urls or roots(settings)
    if not where:
        fail("no place to look for open batches: name destinations, or set APF_ALLOWED_URLS or APF_LEDGER_URL")
    # the pass leaves a batch for the next time where the queue refuses: good for a clock, not here
    broker.queue_state()
    problems = _unlisted(where, settings)
    there = [url for url in where if url not in problems]
    sent = reconcile(there, broker, settings)
    problems |= broker.problems
    if deleted := prune_ended(there, settings):
        echo(f"{deleted} batches that ended over {settings.ledger_keep:g} days ago are deleted from the ledger")
    if as_json:
        print(json.dumps(sent))
    for batch_id, count in sent.items():
        echo(f"batch {batch_id}: {count} shards sent")
    if problems:
        fail("not everything was looked after: " + "; ".join(problems.values()))


def _unlisted(urls: list[str], settings: Settings) -> dict[str, str]:
    """Return what keeps open batches from being found, by URL."""
    problems = {}
    for url in urls:
        try:
            next(open_store(url, s3=settings.s3).list(OPEN), None)
        except WorkerError as error:
            problems[url] = str(error)
    return problems


class _RecordingBroker(Broker):
    """A broker that keeps what the queue refuses, as a pass only logs it."""

    def __init__(self, app: Celery) -> None:
        super().__init__(app)
        self.problems: dict[str, str] = {}

    def queue_state(self) -> QueueSnapshot:
        with self._recording():
            return super().queue_state()

    def keep_row(self, batch: Batch) -> None:
        with self._recording():
            super().keep_row(batch)

    def _send(self, task: str, argument: object, queue: str) -> None:
        with self._recording():
            super()._send(task, argument, queue)

    @contextmanager
    def _recording(self) -> Iterator[None]:
        try:
            yield
        except BrokerError as error:
            self.problems["queue"] = str(error)
            raise


@errors_end_the_command
def beat(context: typer.Context) -> None:
    """Start the clock that has workers reconcile batches and run schedules. Takes every flag of `celery beat`."""
    if HELP not in context.args:
        settings = load_settings()
        check_worker(settings)
        check_registry(settings)
    _become(["beat", *context.args])


@errors_end_the_command
def worker(context: typer.Context) -> None:
    """Start a worker on APF_BROKER_URL; every flag of `celery worker` can follow (`apf worker --help` lists them)."""
    if HELP not in context.args:
        settings = load_settings()
        check_worker(settings)
        check_can_work(settings, "a worker protects photos")
        check_reachable(settings.allowed_for_batches, settings.s3)
        checks.check_eviction(settings)
        if settings.decoder_cage == "require":
            look_at_cage(settings.decoder_cage)
        _give_way(settings.nice)
    level = [] if any(arg.startswith(("-l", "--loglevel")) for arg in context.args) else ["--loglevel", "INFO"]
    _become(["worker", *EACH_FOR_ITSELF, *level, *_lanes_expanded(context.args)])


def _give_way(niceness: int) -> None:
    """Have this process, and what it becomes, give way to others; never less than it does already. Not on Windows."""
    if hasattr(os, "nice"):
        os.nice(max(0, niceness - os.nice(0)))


def _become(arguments: list[str]) -> NoReturn:
    # SIGTERM gives the shard back within APF_SHUTDOWN_GRACE_S instead of waiting for its end.
    environment = {"REMAP_SIGTERM": "SIGQUIT", **os.environ}
    # The app wants settings, which help does without.
    app_of_ours = [] if HELP in arguments else ["-A", "workers.celeryapp"]
    # Celery's banner lists every queue, and is no line of a log.
    command = [sys.executable, "-m", "celery", "--quiet", *app_of_ours, *arguments]
    os.execve(sys.executable, command, environment)  # noqa: S606  the user's own arguments, no shell


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
    settings = load_settings()
    findings = [*checks.examine(settings, urls or []), *examine_serving(settings)]
    if as_json:
        print(json.dumps([finding.as_dict() for finding in findings]))
    else:
        for finding in findings:
            mark = "[green]ok[/green]  " if finding.ok else "[red]bad[/red] "
            console.print(f"{mark} {escape(finding.check)}: {escape(finding.detail)}", highlight=False, soft_wrap=True)
    raise typer.Exit(DONE if all(finding.ok for finding in findings) else SOME_FAILED)


def _lanes_expanded(args: list[str]) -> list[str]:
    """`-Q interactive` means all of the lane's queues."""
    found: list[str] = []
    for arg in args:
        before = found[-1] if found else ""
        if before in ("-Q", "--queues"):
            found.append(",".join(expanded(arg.split(","))))
        elif arg.startswith(("--queues=", "-Q")) and arg != "-Q":
            names = arg.removeprefix("--queues=").removeprefix("-Q")
            found.append("--queues=" + ",".join(expanded(names.split(","))))
        else:
            found.append(arg)
    return found
