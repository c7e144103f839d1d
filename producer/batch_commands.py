"""The commands that change one batch: start it, retry, resume, cancel, pause."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from functools import partial
from typing import Annotated

import typer

from producer import batch as batches
from producer.batch import Asked
from producer.callback_command import await_callback, check_callback_here
from producer.listening import Notices, listening
from producer.parts import missing_worker_parts
from producer.report import LONGEST_PAUSE_S, POLL_S, finish, follow
from producer.terminal import (
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
    console,
    errors_end_the_command,
    refuse,
    say,
)
from workers.app import make_app
from workers.digest import open_shards
from workers.embedded import embedded_worker
from workers.errors import StoreError
from workers.job import BULK, INTERACTIVE, Batch
from workers.ledger import Ledger, Stop
from workers.reconcile import cancel as cancel_batch
from workers.reconcile import close, minder, plan_and_send, resume, send_named
from workers.sending import BrokerError, Sender, choose_queue, waiting
from workers.settings import Settings, load_settings
from workers.sources import find_source
from workers.watch import BatchWatch


class LaneName(StrEnum):
    interactive = INTERACTIVE
    bulk = BULK


@errors_end_the_command
def protect(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Folder, photo, file:// or s3://bucket/prefix.")],
    destination: Destination,
    recipe: Annotated[str, typer.Option(help="light, standard, strong, or a TOML file.")] = "standard",
    private: Private = False,
    wait: Wait = True,
    no_face: Annotated[NoFace, typer.Option(help="What to do with a photo that has no face.")] = NoFace.copy,
    overwrite: Overwrite = False,
    on_weak: Annotated[OnWeak, OnWeakOption] = OnWeak.publish,
    lane: Annotated[LaneName, typer.Option(help="interactive overtakes bulk on shared workers.")] = LaneName.bulk,
    tenant: Annotated[str, typer.Option(help="Whose photos these are: tenants get equal shares of a lane.")] = "",
    exclude: Exclude = None,
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
    asked = Asked(
        recipe=recipe,
        private=private,
        no_face=no_face.value,
        overwrite=overwrite,
        on_weak=on_weak.value,
        lane=lane.value,
        tenant=tenant,
        callback=callback,
        exclude=tuple(exclude or ()),
    )
    found = find_source(source, settings, private=private)
    ledger, batch = batches.new_batch(found.url, destination, asked, settings, photo=found.photo)
    with suppress(BrokerError):  # told below, when the batch is kept in the ledger
        batch = batch.model_copy(update={"queue": choose_queue(make_app(settings), batch.lane, tenant)})
    batches.write_alone(ledger, batch, settings)

    def send(sender: Sender) -> None:
        send_named(ledger, batch, sender) if batch.named else plan_and_send(ledger, batch.id, sender, settings)

    _run(ledger, batch.id, send, settings, wait=wait, as_json=as_json)


@errors_end_the_command
def retry(destination: Destination, batch: BatchId, wait: Wait = True, as_json: AsJson = False) -> None:
    """Send the failed photos of a batch again, after a fix."""
    _send_again(batches.retry, "failed photos", destination, batch, wait=wait, as_json=as_json)


@errors_end_the_command
def resume_command(destination: Destination, batch: BatchId, wait: Wait = True, as_json: AsJson = False) -> None:
    """Go on with a batch: finish its planning, and send again what has no report."""
    _send_again(resume, "shards", destination, batch, wait=wait, as_json=as_json)


def _send_again(
    again: Callable[[Ledger, str, Sender, Settings], int],
    what: str,
    destination: str,
    batch: str,
    *,
    wait: bool,
    as_json: bool,
) -> None:
    settings = load_settings()
    _refuse_what_cannot_run(settings, wait)
    ledger, _ = batches.find_batch(destination, batch, settings)
    batches.check_recipe(ledger, ledger.read_batch(batch), settings)

    def send(sender: Sender) -> None:
        count = again(ledger, batch, sender, settings)
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
    ledger, _ = batches.find_batch(destination, batch, settings)
    record = ledger.read_batch(batch)  # an unknown batch is an error, not a marker
    if _is_done(ledger, record):
        refuse(f"batch {batch} is done already, so it cannot be {how}: nothing of it is left to stop")
    if how == "cancelled":
        cancel_batch(ledger, record, settings)
    else:
        ledger.stop(batch, how)
    say(f"batch {batch} is {how}; go on with: apf resume {destination} {batch}")


def _is_done(ledger: Ledger, batch: Batch) -> bool:
    # The listing first: of a large batch that runs, it takes long to read every report.
    listed = batch.planned and ledger.reported_shards(batch.id) >= set(range(batch.shards))
    return listed and not open_shards(ledger, batch)


def _run(
    ledger: Ledger, batch_id: str, send: Callable[[Sender], None], settings: Settings, *, wait: bool, as_json: bool
) -> None:
    """Send shards and follow them, on the queue or with a worker in this process."""
    celery = make_app(settings)
    watch = BatchWatch(ledger, batch_id)
    sender = Sender(celery)
    plan = sender.plan if settings.broker_url else None
    mind = minder(ledger, batch_id, sender, settings, lambda: waiting(celery), plan)
    with _resume_hint(ledger, batch_id):
        if settings.broker_url:
            send(sender)
            follow_it = partial(follow, watch, every_s=POLL_S, show=not as_json, on_poll=mind)
            summary = follow_it(notice=Notices(ledger, settings)) if wait else watch.poll()
        else:
            with embedded_worker(celery) as worker:

                def look() -> None:
                    worker.check()
                    mind()

                send(sender)
                # It says itself when it has done all: only the bar has to be looked after.
                every_s = LONGEST_PAUSE_S if as_json else POLL_S
                summary = follow(watch, every_s=every_s, show=not as_json, on_poll=look, pause=worker.wait)
                summary = await_callback(watch, summary, sender.callback, worker.check)
    if summary.done:
        close(ledger, summary.batch, settings, sender.callback if settings.broker_url else None)
    finish(summary, as_json=as_json, waited=wait, heard=listening(ledger, summary, settings))


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
    if missing := missing_worker_parts():
        refuse(f"without a queue this command does the work itself, but {', '.join(missing)} is not installed: "
                "install the worker extra, or set APF_BROKER_URL")  # fmt: skip
