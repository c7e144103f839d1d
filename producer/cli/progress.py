"""Progress of a batch: a bar and a table for people, one JSON object for programs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from apf.recipe import other_version
from producer.cli.console import DONE, SOME_FAILED, console
from producer.cli.worker_check import WorkerCheck
from workers.errors import StoreUnavailable
from workers.ledger.callback_state import Callback
from workers.status.as_json import json_object
from workers.status.batch_status import BatchMonitor, BatchSummary

#: Between two looks at the ledger at first.
POLL_S = 2.0
#: Between two looks at a store that is down.
STORE_PAUSE_S = 5.0
#: A batch that has been followed for long is looked at less often: by so much of the time so far, and this at most.
PATIENCE, LONGEST_PAUSE_S = 0.05, 10.0

#: Failures listed on the terminal; --json lists all.
SHOWN_FAILURES = 20


def follow(
    watch: BatchMonitor,
    *,
    every_s: float,
    show: bool,
    on_poll: Callable[[], object] = lambda: None,
    notice: Callable[[BatchSummary], str] = lambda _: "",
    pause: Callable[[float], object] = time.sleep,
) -> BatchSummary:
    """Look until no photo is pending, or the batch is stopped; with a bar where `show` is set.

    Args:
        every_s: between two looks at first; later it is longer, as each look costs the store some requests.
        notice: what people should know of a batch that is not done; empty: nothing new.
        pause: waits for so many seconds, or less where there is something to see.
    """
    with _bar(show) as progress:
        task = progress.add_task("protecting", total=None, faces=0, rate=0.0)
        started, already = time.monotonic(), None
        while True:
            on_poll()
            try:
                summary = watch.poll(running=show)
            except StoreUnavailable as error:  # workers wait for it, and so do we
                progress.console.print(f"waiting: {error}", highlight=False, markup=False)
                time.sleep(max(every_s, STORE_PAUSE_S))
                continue
            done = summary.totals.photos + summary.running.photos
            faces = summary.faces + summary.running.faces
            already = done if already is None else already
            rate = (done - already) / max(time.monotonic() - started, 1e-3)
            progress.update(task, completed=done, total=summary.photos or None, faces=faces, rate=rate)
            if summary.done or summary.stopped:
                return summary
            with suppress(StoreUnavailable):  # the next look says it
                if text := notice(summary):
                    progress.console.print(text, highlight=False, markup=False, soft_wrap=True)
            pause(max(every_s, min(LONGEST_PAUSE_S, PATIENCE * (time.monotonic() - started))))


def _bar(show: bool) -> Progress:
    return Progress(
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("photos, {task.fields[faces]} faces, {task.fields[rate]:.1f} photos/s"),
        TextColumn("after"),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=console,
        disable=not show,
    )


def print_summary(summary: BatchSummary) -> None:
    """Print what became of the batch, in a few lines."""
    batch = summary.batch
    console.print(
        f"batch [bold]{batch.id}[/bold] into {escape(batch.destination)}, recipe {escape(batch.recipe.name)}",
        highlight=False,
        soft_wrap=True,
    )
    what = "gradient files" if batch.private else "photos"
    console.print(
        f"{summary.photos} {what}: {summary.protected} protected ({summary.faces} faces), {summary.no_face} without a "
        f"face, {summary.skipped} skipped, {summary.failed} failed, {summary.pending} pending"
        + (f"; {batch.ignored} other files ignored" if batch.ignored else "")
        + (f" ({summary.left_out.excluded} of them by patterns)" if summary.left_out.excluded else "")
        + (f"; {summary.left_out.forgotten} forgotten, not protected again" if summary.left_out.forgotten else "")
        + (f"; [red]{summary.left_out.total} left out[/red]" if summary.left_out.total else "")
        + (f"; [yellow]{summary.stopped}[/yellow]" if summary.stopped else ""),
        highlight=False,
        soft_wrap=True,
    )
    if summary.weak_faces:
        console.print(f"[yellow]{_weak_line(summary)}[/yellow]", highlight=False, soft_wrap=True)
    if batch.note:
        console.print(f"[yellow]{escape(batch.note)}[/yellow]", highlight=False, soft_wrap=True)
    if not summary.done and (reason := other_version(batch.recipe)):
        # Workers of this version leave it open, and nothing else would say why.
        console.print(
            f"[yellow]{escape(reason)}, or cancel it and protect again[/yellow]", highlight=False, soft_wrap=True
        )
    if summary.missing:
        console.print(
            f"[red]{summary.missing} photos have no outcome[/red]: they were deleted while a torn plan was made anew; "
            "protect the source again to be sure",
            highlight=False,
            soft_wrap=True,
        )
    for failure in summary.failures[:SHOWN_FAILURES]:
        console.print(
            f"  [red]failed[/red] {escape(failure.key)}: {escape(failure.reason)}", highlight=False, soft_wrap=True
        )
    if len(summary.failures) > SHOWN_FAILURES:
        console.print(f"  and {len(summary.failures) - SHOWN_FAILURES} more: --json lists all")
    for one in summary.left_out.named[:SHOWN_FAILURES]:
        console.print(f"  [red]left out[/red] {escape(one.key)}: {escape(one.reason)}", highlight=False, soft_wrap=True)
    if summary.left_out.total > SHOWN_FAILURES:
        console.print(f"  and {summary.left_out.total - SHOWN_FAILURES} more: --json names the first hundred")
    if callback := summary.callback:
        console.print(escape(_callback_line(callback)), highlight=False, soft_wrap=True)
    if summary.failures:
        console.print(f"after a fix: apf retry {escape(batch.destination)} {batch.id}", highlight=False, soft_wrap=True)


def _weak_line(summary: BatchSummary) -> str:
    faces = "1 face is" if summary.weak_faces == 1 else f"{summary.weak_faces} faces are"
    photos = f"{summary.weak_photos} {'photo' if summary.weak_photos == 1 else 'photos'}"
    return f"{faces} weak, in {photos}: a juror still knows {'it' if summary.weak_faces == 1 else 'them'}"


def _callback_line(callback: Callback) -> str:
    tries = f"{callback.tries} {'try' if callback.tries == 1 else 'tries'}"
    match callback.state:
        case "waiting":
            return "callback: when the batch is done"
        case "delivered":
            return f"callback: delivered after {tries}"
        case "retrying":
            return f"callback: not delivered after {tries}, and tried again: {callback.last_error}"
        case "gave_up":
            return f"callback: given up after {tries}: {callback.last_error}"


def print_failures(summary: BatchSummary) -> None:
    """Every failed photo, on stdout, a line each: key, attempts, whether trying again may help, reason."""
    for failure in summary.failures:
        again = "may pass" if failure.transient else "permanent"
        tries = f"{failure.attempts} {'try' if failure.attempts == 1 else 'tries'}"
        print(f"{failure.key!r}\t{tries}\t{again}\t{failure.reason}")
    for one in summary.left_out.named:
        print(f"{one.key!r}\t0 tries\tpermanent\tleft out: {one.reason}")


def is_short(summary: BatchSummary) -> bool:
    """Return whether some photo of the source has no output, and should have one."""
    return bool(summary.failed or summary.missing or summary.left_out.total)


def finish(summary: BatchSummary, *, as_json: bool, waited: bool = False, heard: WorkerCheck | None = None) -> NoReturn:
    """End a command about one batch: what became of it, on the terminal or as JSON, and the exit status.

    Args:
        heard: whether a worker listens for what is left.
    """
    heard = heard or WorkerCheck()
    if as_json:
        print(json.dumps({**json_object(summary), "no_worker": heard.as_json()}))
    else:
        print_summary(summary)
        if text := str(heard):
            console.print(f"[yellow]{escape(text)}[/yellow]", highlight=False, soft_wrap=True)
    left = waited and (summary.pending or summary.stopped)
    raise typer.Exit(SOME_FAILED if is_short(summary) or left else DONE)
