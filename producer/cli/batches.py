"""`apf protect`, `retry`, `resume`, `cancel` and `pause`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from functools import partial
from typing import Annotated

import typer

from apf.recipe import DEFAULT_RECIPE
from producer.cli.callbacks import await_callback, check_callback_here
from producer.cli.console import (
    INTERRUPTED,
    AsJson,
    BatchId,
    Destination,
    Exclude,
    NoFace,
    OnWeak,
    OnWeakOption,
    Overwrite,
    Private,
    Wait,
    check_can_work,
    console,
    echo,
    errors_end_the_command,
    fail,
)
from producer.cli.progress import LONGEST_PAUSE_S, POLL_S, finish, follow
from producer.cli.worker_check import Notices, listening
from workers.access.sources import find_source
from workers.batches.create import BatchOptions, check_not_forgotten, check_recipe, find_batch, new_batch, write_alone
from workers.batches.rescue import periodic_rescuer, plan_and_send, resume, send_named
from workers.batches.retry import retry as retry_batch
from workers.broker.app import make_app
from workers.broker.client import Broker, BrokerError
from workers.broker.embedded import embedded_worker
from workers.config.settings import Settings, load_settings
from workers.core.records import BULK, INTERACTIVE
from workers.errors import StoreError
from workers.ledger.audit import local_actor, note_act, note_submission
from workers.ledger.batch_ledger import Ledger, Stop
from workers.ledger.lifecycle import close, halt
from workers.status.batch_status import BatchMonitor


class LaneName(StrEnum):
    interactive = INTERACTIVE
    bulk = BULK


@errors_end_the_command
def protect(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Folder, photo, file:// or s3://bucket/prefix.")],
    destination: Destination,
    recipe: Annotated[str, typer.Option(help="fast, light, standard, strong, or a TOML file.")] = DEFAULT_RECIPE,
    private: Private = False,
    wait: Wait = True,
    no_face: Annotated[NoFace, typer.Option(help="What to do with a photo that has no face.")] = NoFace.copy,
    overwrite: Overwrite = False,
    include_forgotten: Annotated[
        bool, typer.Option("--include-forgotten", help="Protect photos, too, that `apf forget` was told of.")
    ] = False,
    on_weak: Annotated[OnWeak, OnWeakOption] = OnWeak.publish,
    lane: Annotated[LaneName, typer.Option(help="interactive overtakes bulk on shared workers.")] = LaneName.bulk,
    tenant: Annotated[str, typer.Option(help="Whose photos these are: tenants get equal shares of a lane.")] = "",
    exclude: Exclude = None,
    callback: Annotated[
        str | None, typer.Option(metavar="URL", help="POST there when the batch is done (docs/callbacks.md).")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say how many photos, how long and how dear; nothing is written.")
    ] = False,
    price: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=USD",
            help="With --dry-run: worker-hour, million-writes, million-reads or tb-month. May be repeated.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Protect every photo of SRC into DST; only what is new or changed since the last time."""
    settings = load_settings()
    if not dry_run:
        _refuse_what_cannot_run(settings, wait)
    if callback is not None and not dry_run:
        check_callback_here(callback, settings)
    asked = BatchOptions(
        recipe=recipe,
        private=private,
        no_face=no_face.value,
        overwrite=overwrite,
        on_weak=on_weak.value,
        include_forgotten=include_forgotten,
        lane=lane.value,
        tenant=tenant,
        callback=callback,
        exclude=tuple(exclude or ()),
    )
    if dry_run:
        from producer.cli.estimate import print_estimate  # noqa: PLC0415  as a rule it is not needed

        print_estimate(source, destination, asked, settings, price or (), as_json=as_json)
        return
    found = find_source(source, settings, private=private)
    ledger, batch = new_batch(found.url, destination, asked, settings, photo=found.photo)
    check_not_forgotten(ledger, batch)
    with suppress(BrokerError):  # told below, when the batch is kept in the ledger
        batch = batch.model_copy(update={"queue": Broker(make_app(settings)).choose_queue(batch.lane, tenant)})
    write_alone(ledger, batch, settings)
    note_submission(ledger, local_actor(), batch)

    def send(broker: Broker) -> None:
        send_named(ledger, batch, broker) if batch.named else plan_and_send(ledger, batch.id, broker, settings)

    _run(ledger, batch.id, send, settings, wait=wait, as_json=as_json)


@errors_end_the_command
def retry(destination: Destination, batch: BatchId, wait: Wait = True, as_json: AsJson = False) -> None:
    """Send the failed photos of a batch again, after a fix."""
    _send_again(retry_batch, "retry", "failed photos", destination, batch, wait=wait, as_json=as_json)


@errors_end_the_command
def resume_command(destination: Destination, batch: BatchId, wait: Wait = True, as_json: AsJson = False) -> None:
    """Go on with a batch: finish its planning, and send again what has no report."""
    _send_again(resume, "resume", "shards", destination, batch, wait=wait, as_json=as_json)


def _send_again(
    again: Callable[[Ledger, str, Broker, Settings], int],
    act: str,
    what: str,
    destination: str,
    batch: str,
    *,
    wait: bool,
    as_json: bool,
) -> None:
    settings = load_settings()
    _refuse_what_cannot_run(settings, wait)
    ledger, _ = find_batch(destination, batch, settings)
    check_recipe(ledger, ledger.read_batch(batch), settings)

    def send(broker: Broker) -> None:
        count = again(ledger, batch, broker, settings)
        note_act(ledger, local_actor(), act, batch=batch, sent=count)
        console.print(f"{count} {what} sent again", highlight=False)

    _run(ledger, batch, send, settings, wait=wait, as_json=as_json)


@errors_end_the_command
def cancel(destination: Destination, batch: BatchId) -> None:
    """Stop a batch: shards that wait are dropped, running ones end early; `apf resume` takes it up again."""
    _stop(destination, batch, "cancelled")


@errors_end_the_command
def pause(destination: Destination, batch: BatchId) -> None:
    """Hold a batch, across restarts of anything, until `apf resume`."""
    _stop(destination, batch, "paused")


def _stop(destination: str, batch: str, how: Stop) -> None:
    settings = load_settings()
    ledger, _ = find_batch(destination, batch, settings)
    halt(ledger, ledger.read_batch(batch), how, settings)  # an unknown batch is an error, not a marker
    note_act(ledger, local_actor(), "cancel" if how == "cancelled" else "pause", batch=batch)
    echo(f"batch {batch} is {how}; go on with: apf resume {destination} {batch}")


def _run(
    ledger: Ledger, batch_id: str, send: Callable[[Broker], None], settings: Settings, *, wait: bool, as_json: bool
) -> None:
    """Send shards and follow them, on the queue or with a worker in this process."""
    celery = make_app(settings)
    watch = BatchMonitor(ledger, batch_id)
    broker = Broker(celery)
    rescue = periodic_rescuer(ledger, batch_id, broker, settings)
    with _resume_hint(ledger, batch_id):
        if settings.broker_url:
            send(broker)
            follow_it = partial(follow, watch, every_s=POLL_S, show=not as_json, on_poll=rescue)
            summary = follow_it(notice=Notices(ledger, settings)) if wait else watch.poll()
        else:
            with embedded_worker(celery) as worker:

                def look() -> None:
                    worker.check()
                    rescue()

                send(broker)
                # It says itself when it has done all: only the bar has to be looked after.
                every_s = LONGEST_PAUSE_S if as_json else POLL_S
                summary = follow(watch, every_s=every_s, show=not as_json, on_poll=look, pause=worker.wait)
                summary = await_callback(watch, summary, broker.callback, worker.check)
    if summary.done:
        close(ledger, summary.batch, settings, broker.callback if settings.broker_url else None)
    finish(summary, as_json=as_json, waited=wait, heard=listening(ledger, summary, settings))


@contextmanager
def _resume_hint(ledger: Ledger, batch_id: str) -> Iterator[None]:
    destination = ledger.read_batch(batch_id).destination  # at first: later the store may be what fails
    again = f"apf resume {destination} {batch_id}"
    try:
        yield
    except KeyboardInterrupt:
        echo(f"\ninterrupted; go on with: {again}")
        raise typer.Exit(INTERRUPTED) from None
    except (BrokerError, StoreError) as error:
        fail(f"{error}; batch {batch_id} is kept, then go on with: {again}")


def _refuse_what_cannot_run(settings: Settings, wait: bool) -> None:
    if settings.broker_url:
        return
    if not wait:
        fail("--no-wait needs a queue that others work on: set APF_BROKER_URL, or leave the flag away")
    check_can_work(settings, "without a queue this command does the work itself", ", or set APF_BROKER_URL")
