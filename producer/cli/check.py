"""`apf check`: parse, run `workers.check.run` where its libraries are installed, print."""

from __future__ import annotations

import importlib
import json
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from apf.extras import extra_for, lacking
from producer.cli.console import DONE, SOME_FAILED, AsJson, console, echo, errors_end_the_command, fail
from producer.cli.report import bar
from workers.config.settings import load_settings
from workers.report.output_files import Target
from workers.store import canonical_url

if TYPE_CHECKING:
    from workers.check.result import Result


@errors_end_the_command
def check(
    protected: Annotated[str, typer.Argument(metavar="PROTECTED", help="Folder or URL that apf protect wrote into.")],
    others: Annotated[
        str | None,
        typer.Argument(
            metavar="[OTHERS]", help="Other photos of the same people, not protected; the album's own count."
        ),
    ] = None,
    originals: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Default: what the last batch into PROTECTED was made from.")
    ] = None,
    person_folders: Annotated[
        bool,
        typer.Option("--person-folders", help="PROTECTED and OTHERS have a folder for each person: compare these."),
    ] = False,
    recogniser: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME|FILE", help="Ask this one, too, and let it decide: an ONNX file, a pack, sface."),
    ] = None,
    sort_into: Annotated[
        Path | None,
        typer.Option(
            "--sort-into", metavar="FOLDER", help="Only group the faces, a folder each person, for you to sort."
        ),
    ] = None,
    people: Annotated[
        Path | None, typer.Option("--people", metavar="FOLDER", help="Faces as you have sorted them after --sort-into.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Look at so many photos of each folder.")] = 200,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Default: apf-check.html here.")
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tell whether recognisers still match protected photos to other photos of their people, with a page of pairs."""
    if reason := lacking(extra_for(load_settings().device)):
        fail(f"the faces cannot be compared: {reason}")
    settings = load_settings()
    place = Target(output.expanduser().absolute() if output else Path.cwd() / "apf-check.html")
    folders = [canonical_url(url) for url in (protected, others, originals) if url]
    place.check(apart=tuple(folders))
    run: Any = importlib.import_module("workers.check.run")
    question = run.CheckOptions(
        protected=protected,
        originals=originals,
        others=others,
        person_folders=person_folders,
        sorted_faces=people,
        recognisers=tuple(recogniser or ()),
        limit=limit,
    )
    with bar("looking at photos", show=not as_json) as progress:
        seen = run.look(question, settings, progress=progress)
    if sort_into:
        _sort(sort_into, seen, as_json=as_json)
        return
    result: Result = run.judge(seen)
    place.publish(importlib.import_module("workers.check.page").render(result))
    if as_json:
        print(json.dumps({**result.as_json(), "page": str(place.page)}))
    else:
        _tell(result)
        print(place.page)
    if open_it:
        webbrowser.open(place.page.as_uri())
    raise typer.Exit(SOME_FAILED if result.still_matched else DONE)


def _sort(folder: Path, seen: Any, *, as_json: bool) -> None:
    count = importlib.import_module("workers.check.people").sort_into(folder, seen.looked.faces, seen.people)
    people = len(set(seen.people.values()))
    if as_json:
        print(json.dumps({"folder": str(folder), "faces": count, "people": people}))
        return
    echo(
        f"{count} faces of {people} people: move those that lie in the wrong folder, delete those that do not count, "
        "and rename folders as you like. Then run the same with --people instead"
    )
    _warn("They are unprotected faces: keep them to yourself.")
    print(folder)


def _tell(result: Result) -> None:
    for photo in result.photos:
        if photo.verdict and photo.verdict.value in ("partly", "matched"):
            echo(f"  {photo.photo}: {photo.sentence}")
    names = " and ".join(one.recogniser.name for one in result.deciding)
    hidden = result.compared - result.still_matched
    echo(f"{hidden} of {result.compared} photos are not matched any more, by {names}")
    if climbed := " and ".join(one.recogniser.name for one in result.deciding if one.recogniser.climbed):
        _warn(f"The filter worked against {climbed}, whose word flatters: another can decide by --recogniser.")
    if not result.confirmed:
        _warn("The program has grouped the faces by person: look at the page whether it is right.")
    _warn("The page holds unprotected faces: keep it to yourself.")


def _warn(text: str) -> None:
    console.print(f"[yellow]{escape(text)}[/yellow]", highlight=False, soft_wrap=True)
