"""`apf guides list | pull`: recognisers that attack steps can climb on, a detector, and fetching further ones."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from apf.guides.catalogue import standings
from apf.guides.download import find_known, pull
from producer.cli.console import AsJson, echo, errors_end_the_command

app = typer.Typer(help="Which recognisers attack steps can climb on; fetch further ones.", no_args_is_help=True)


@app.callback()
def guides() -> None:
    """Which recognisers attack steps can climb on; fetch further ones.

    Any ONNX recogniser or InsightFace pack can be named besides, by its path.
    """


@app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """Tell which guides, and detectors to fetch, are known by name, whether they are here, and under what licence."""
    found = standings()
    if as_json:
        print(json.dumps({"guides": [asdict(one) for one in found]}))
        return
    for one in found:
        print(f"{one.name:10}{one.kind:10}{one.state:9}{one.licence:12}{one.sha256[:16]}  {one.origin}")
        if one.cure:
            echo(f"{one.name}: {one.cure}")


@app.command("pull")
@errors_end_the_command
def pull_command(
    name: Annotated[str, typer.Argument(help="As `apf guides list` has it.")],
    place: Annotated[
        str, typer.Option("--from", metavar="URL|FILE", help="Where to take it from; the digest must be the same.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Fetch a guide, or the detector yunet, and check its digest; one that is here already stays."""
    known = find_known(name)
    path = pull(known, place)
    if as_json:
        print(json.dumps({"name": name, "path": str(path), "sha256": known.sha256}))
    else:
        print(path)
