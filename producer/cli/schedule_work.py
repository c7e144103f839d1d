"""Run the batches of schedules: by a queue's workers, or by one in this process."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from producer.cli.callbacks import await_callback
from producer.cli.console import DONE, INTERRUPTED, SOME_FAILED, check_can_work, echo
from producer.cli.progress import follow, is_short, print_summary
from producer.cli.worker_check import Notices
from workers.batches.rescue import periodic_rescuer, resume
from workers.broker.app import make_app
from workers.broker.client import Broker
from workers.broker.embedded import embedded_worker
from workers.config.settings import Settings
from workers.ledger.batch_ledger import Ledger
from workers.ledger.leases import attempts_at, is_live
from workers.ledger.lifecycle import close
from workers.schedules.fire import Fired, run_due
from workers.schedules.repository import all_schedules
from workers.schedules.status import unfinished
from workers.status.as_json import json_object
from workers.status.batch_status import BatchMonitor, BatchSummary

POLL_S = 2.0


def fire(settings: Settings, *, only: str | None = None) -> list[Fired]:
    """Fire what is due; with a queue its workers plan it, without one `work` does."""
    if settings.broker_url:
        return run_due(settings, Broker(make_app(settings)), only=only)
    check_can_work(settings, "without a queue this command does the work itself", ", or set APF_BROKER_URL")
    return run_due(settings, None, only=only)


def work(fired: Iterable[Fired], settings: Settings, *, wait: bool, show: bool) -> list[BatchSummary]:
    """Where the batches stand; without a queue, once a worker in this process has done them and what was left."""
    batches = [batch for one in fired for batch in one.batches(settings)]
    if not settings.broker_url:
        return list(_done_here({batch_id: ledger for ledger, batch_id in batches}, settings, show=show))
    if wait:
        return [_followed(ledger, batch_id, settings, show=show) for ledger, batch_id in batches]
    return [BatchMonitor(ledger, batch_id).poll() for ledger, batch_id in batches]


@contextmanager
def hint_how_to_go_on(settings: Settings, name: str | None = None) -> Iterator[None]:
    """On Ctrl-C: status 130, and what to type; the batches are kept."""
    try:
        yield
    except KeyboardInterrupt:
        if not settings.broker_url:
            echo("\ninterrupted; go on with: apf schedule tick")
        elif name:
            echo(f"\ninterrupted, and workers go on; follow it with: apf schedule show {name} --wait")
        else:
            echo("\ninterrupted, and workers go on; look with: apf schedule list")
        raise typer.Exit(INTERRUPTED) from None


def finish(summaries: list[BatchSummary], *, as_json: bool, waited: bool) -> NoReturn:
    """Print them, and end the command: with status 1 where photos failed, or are left though they were waited for."""
    if as_json:
        print(json.dumps({"batches": [json_object(summary) for summary in summaries]}))
    elif not summaries:
        echo("nothing to do")
    for summary in () if as_json else summaries:
        print_summary(summary)
    left = waited and any(summary.pending or summary.stopped for summary in summaries)
    failed = any(map(is_short, summaries))
    raise typer.Exit(SOME_FAILED if failed or left else DONE)


def _followed(ledger: Ledger, batch_id: str, settings: Settings, *, show: bool) -> BatchSummary:
    rescue = periodic_rescuer(ledger, batch_id, Broker(make_app(settings)), settings)
    notice = Notices(ledger, settings)
    return follow(BatchMonitor(ledger, batch_id), every_s=POLL_S, show=show, on_poll=rescue, notice=notice)


def _done_here(batches: dict[str, Ledger], settings: Settings, *, show: bool) -> Iterator[BatchSummary]:
    """Without a queue no pass reconciles: what an earlier command has left is resumed here."""
    for repository, name in all_schedules(settings):
        for ledger, batch in unfinished(repository, name, settings):
            if not any(map(is_live, attempts_at(ledger, batch.id))):  # else another command is at it
                batches.setdefault(batch.id, ledger)
    if not batches:
        return
    celery = make_app(settings)
    broker = Broker(celery)
    with embedded_worker(celery) as worker:
        for batch_id, ledger in batches.items():
            resume(ledger, batch_id, broker, settings)
            watch = BatchMonitor(ledger, batch_id)
            summary = follow(watch, every_s=POLL_S, show=show, on_poll=worker.check, pause=worker.wait)
            summary = await_callback(watch, summary, broker.callback, worker.check)
            if summary.done:
                close(ledger, summary.batch, settings)
            yield summary
