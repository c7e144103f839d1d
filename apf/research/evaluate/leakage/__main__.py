"""`python -m apf.research.evaluate.leakage`: what the gradient of private mode gives away, against the protection it
keeps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from apf.errors import ApfError
from apf.research.evaluate import report as reports
from apf.research.evaluate.__main__ import SHARED, FacesPath, Json, MarkdownFile, ModelsPath, People
from apf.research.evaluate.leakage.bench import Bench, Settings
from apf.research.evaluate.leakage.reductions import chosen
from apf.research.evaluate.leakage.report import as_markdown, report
from apf.research.train.data import DataError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

Run = Annotated[Path, typer.Option(help="Keeps gradients, attackers and finished rows; a broken-off run goes on.")]
Seed = Annotated[int, typer.Option(help="Of the attackers' trainings and of the released method's noise.")]
Only = Annotated[list[str] | None, typer.Option(help="Only this row, by name; may repeat.")]
Steps = Annotated[int, typer.Option(min=1, help="How long the attacker trains that all rows' own go on from.")]
OwnSteps = Annotated[int, typer.Option(min=1, help="How long each row's own attacker trains.")]
Threads = Annotated[int, typer.Option(min=1, help="Cores that torch may use.")]


@app.command()
def leakage(
    faces: FacesPath = SHARED / "faces" / "lfw112.tar", models: ModelsPath = SHARED / "face_models",
    run: Run = Path("runs") / "leakage", seed: Seed = 0, only: Only = None, steps: Steps = Settings.steps,
    own_steps: OwnSteps = Settings.own_steps, people: People = 100, threads: Threads = 1,
    json_file: Json = None, markdown: MarkdownFile = None,
) -> None:  # fmt: skip
    """Train attackers on gradients of people, and measure on others what they learn of the photos."""
    torch.set_num_threads(threads)
    try:
        settings = Settings(
            faces=faces, models=models, run=run, seed=seed, reductions=chosen(only or ()), steps=steps,
            own_steps=own_steps, people=people,
        )  # fmt: skip
        found = report(Bench(settings))
    except (ApfError, DataError) as error:
        typer.echo(f"apf.research.evaluate.leakage: {error}", err=True)
        raise typer.Exit(2) from error
    if json_file:
        reports.write(json_file, found.model_dump_json(indent=1) + "\n")
    if markdown:
        reports.write(markdown, as_markdown(found))
    typer.echo(as_markdown(found))


if __name__ == "__main__":
    app()
