"""Shared by all commands: exit statuses, arguments, output and errors."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from typing import TYPE_CHECKING, Annotated, NoReturn, ParamSpec

import typer
from rich.console import Console
from rich.markup import escape

from apf.errors import ApfError
from apf.extras import extra_for, lacking
from workers.errors import WorkerError

if TYPE_CHECKING:
    from workers.config.settings import Settings

#: For people, on stderr; stdout belongs to the result.
console = Console(stderr=True)

DONE, SOME_FAILED, COULD_NOT_RUN, INTERRUPTED = 0, 1, 2, 130

P = ParamSpec("P")


class NoFace(StrEnum):
    copy = "copy"
    skip = "skip"


class OnWeak(StrEnum):
    publish = "publish"
    fail = "fail"


#: Of new work, and of a schedule that there is.
OnWeakOption = typer.Option(help="What to do with a photo of which a juror still knows a face.")
Destination = Annotated[str, typer.Argument(metavar="DST", help="Folder, file:// or s3://bucket/prefix.")]
BatchId = Annotated[str, typer.Argument(metavar="BATCH", help="A batch's id, as `apf status` prints it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Private = Annotated[
    bool, typer.Option("--private", help="SRC holds gradient files, and DST gets perturbation files: no photo is here.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace files in DST that apf did not write for the very same photo, too.")
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        help="Leave out what matches, as in .gitignore: '*.png', 'drafts/'. May be repeated; SRC's own .apfignore "
        "counts, too, and what NAS boxes and file systems leave behind is left out anyway.",
    ),
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Stay until the batch is done, with a progress bar.")]


def errors_end_the_command(command: Callable[P, None]) -> Callable[P, None]:
    @wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (WorkerError, ApfError) as error:
            fail(str(error))

    return guarded


def fail(message: str) -> NoReturn:
    console.print(f"[red]apf:[/red] {escape(message)}", highlight=False, soft_wrap=True)
    raise typer.Exit(COULD_NOT_RUN)


def check_can_work(settings: Settings, what: str, instead: str = "") -> None:
    """End a command that protects photos itself where the libraries for it are not installed."""
    if reason := lacking(extra_for(settings.device)):
        fail(f"{what}, and {reason}{instead}")


def echo(text: str) -> None:
    """Print a line to copy from: not wrapped, and nothing in it is taken for markup."""
    console.print(text, highlight=False, soft_wrap=True, markup=False)
