"""`apf report`: an HTML page about a batch.

The page is made by a worker's module, loaded by name: this package never loads torch or an image library.
"""

from __future__ import annotations

import importlib
import json
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from apf.extras import lacking
from producer.cli.console import AsJson, Destination, console, echo, errors_end_the_command, fail
from workers.batches.create import find_batch
from workers.config.settings import load_settings
from workers.report.output_files import Target

if TYPE_CHECKING:
    from workers.report.build import WrittenReport


@errors_end_the_command
def report(
    destination: Destination,
    batch: Annotated[str | None, typer.Argument(metavar="[BATCH]", help="Default: the latest.")] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE_OR_FOLDER",
            help="Default: apf-report-BATCH.html here. Above 50 photos the pictures lie in a folder beside the page.",
        ),
    ] = None,
    with_originals: Annotated[
        bool,
        typer.Option("--with-originals", help="Compare with the originals: the page then holds unprotected photos."),
    ] = False,
    measure: Annotated[
        int, typer.Option(min=0, metavar="N", help="Find the faces of so many photos anew, and measure them; 0: quick.")
    ] = 200,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Show so many photos, failed ones first.")] = 5000,
    open_it: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a page about a batch: what was protected, how it looks, what failed and what to do about it."""
    if reason := lacking("cpu"):
        fail(f"the page is made with the worker's image libraries, and {reason}, or use apf status")
    settings = load_settings()
    ledger, batch_id = find_batch(destination, batch, settings)
    place = Target.at(output, batch_id)
    asked_of = ledger.read_batch(batch_id)
    place.check(apart=(asked_of.source, asked_of.destination))  # before libraries load that take seconds
    album: Any = importlib.import_module("workers.report.build")
    asked = album.ReportOptions(with_originals=with_originals, measure=measure, limit=limit)
    with bar("looking at photos", show=not as_json) as progress:
        written: WrittenReport = album.build(ledger, batch_id, place, asked, settings, progress=progress)
    if as_json:
        print(json.dumps(_json_object(written, batch_id, with_originals=with_originals)))
    else:
        _tell(written, with_originals=with_originals)
    if open_it:
        webbrowser.open(written.page.as_uri())


@contextmanager
def bar(what: str, *, show: bool) -> Iterator[Any]:
    """Show how far something is; gives what is told of it, as done and total."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("left:"))
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not show) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _tell(written: WrittenReport, *, with_originals: bool) -> None:
    echo(f"{written.photos} photos, {written.measured} measured, {written.size_bytes / 1e6:.1f} MB")
    if written.folder:
        echo(f"its pictures lie in {written.folder}: keep the two together")
    if with_originals:
        console.print("[yellow]The page holds unprotected photos: keep it to yourself.[/yellow]", highlight=False)
    print(written.page)


def _json_object(written: WrittenReport, batch_id: str, *, with_originals: bool) -> dict[str, object]:
    return {
        "batch": batch_id,
        "page": str(written.page),
        "folder": str(written.folder) if written.folder else None,
        "photos": written.photos,
        "measured": written.measured,
        "bytes": written.size_bytes,
        "with_originals": with_originals,
    }
