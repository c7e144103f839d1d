"""`python -m apf.research.evaluate photos | sizes | crops | kinds | all`."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from apf.errors import ApfError
from apf.research.evaluate import report as reports
from apf.research.evaluate.bench import Bench, Settings
from apf.research.evaluate.plot import plots as draw
from apf.research.train.data import DataError
from apf.research.train.teachers import check_device

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

SHARED = Path("../shared")
#: Columns of a table that goes to a file or a pipe.
FILE_WIDTH = 170
RECIPES = ("light", "standard", "strong", "fast", "modules")


class Level(StrEnum):
    """What is protected and compared."""

    #: Whole photos: protected, encoded, detected and aligned again.
    PHOTOS = "photos"
    #: The same by size of the face.
    SIZES = "sizes"
    #: Aligned 112x112 faces, which flatter.
    CROPS = "crops"
    #: Aligned faces by kind of photo: greyscale, dark, blurred, with sunglasses.
    KINDS = "kinds"
    ALL = "all"


Which = Annotated[
    Level, typer.Argument(help="Whole photos, sizes of the face, aligned faces, kinds of photo, or all of them.")
]
FacesPath = Annotated[Path, typer.Option("--faces", help="Tar or folder of PERSON/PICTURE.jpg, 112x112.")]
PhotosPath = Annotated[Path, typer.Option("--photos", help="Folder of PERSON/PHOTO.jpg, whole photos.")]
ModelsPath = Annotated[Path, typer.Option("--models", help="Folder of ONNX recognisers with models.json.")]
Onnx = Annotated[list[Path] | None, typer.Option(help="A further ONNX file, fed as ArcFace is; may repeat.")]
Recipes = Annotated[list[str] | None, typer.Option(help="Built-in name or TOML file; may repeat.")]
Precisions = Annotated[list[str] | None, typer.Option(help="Also `standard` in float32 or bfloat16; may repeat.")]
Methods = Annotated[list[str] | None, typer.Option(help="Only this row, by name; may repeat.")]
People = Annotated[int, typer.Option(min=1, help="People with two photos.")]
Everybody = Annotated[bool, typer.Option("--all-people", help="Also people who may have been trained on.")]
Run = Annotated[Path, typer.Option(help="Keeps finished rows; a broken-off run goes on from here.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Compute every row anew.")]
Every = Annotated[int, typer.Option(min=1, help="Protect only each so many-th of the photos.")]
PhotosLimit = Annotated[int, typer.Option(min=0, help="Protect no more photos than these; 0 is no limit.")]
Rivals = Annotated[bool, typer.Option("--rivals", help="Also rivals on whole photos: minutes to hours.")]
Other = Annotated[str, typer.Option(help="An InsightFace pack, by name or folder: also find faces by its detector.")]
Sheets = Annotated[Path | None, typer.Option(help="Write sheets of clean and protected faces at 1:1 here.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write everything here.")]
MarkdownFile = Annotated[Path | None, typer.Option(help="Write the tables here.")]
Plots = Annotated[Path | None, typer.Option(help="Write a PNG for each condition into this folder.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Seed = Annotated[int, typer.Option(help="Of noise and of the rivals' random starts.")]
Timed = Annotated[bool, typer.Option(help="Take times, in turns on the same faces.")]
TimingFaces = Annotated[int, typer.Option(min=1, help="Faces to take times on.")]
TimingRuns = Annotated[int, typer.Option(min=1, help="How often each method is timed.")]
Server = Annotated[str, typer.Option(help="The one model of the released APF and Fawkes; the first if not given.")]
ReleasedSteps = Annotated[int, typer.Option(min=1, help="How long the released APF trains.")]


@app.command()
def evaluate(
    level: Which,
    faces: FacesPath = SHARED / "faces" / "lfw112.tar", photos: PhotosPath = SHARED / "photos",
    models: ModelsPath = SHARED / "face_models", recogniser: Onnx = None, recipe: Recipes = None,
    precision: Precisions = None, method: Methods = None, people: People = 100, all_people: Everybody = False,
    every: Every = 1, photos_limit: PhotosLimit = 0, rivals: Rivals = False, other_detector: Other = "",
    sheets: Sheets = None, run: Run = Path("runs"), fresh: Fresh = False, json_file: Json = None,
    markdown: MarkdownFile = None, plots: Plots = None,
    device: Device = "cpu", seed: Seed = 0, timing: Timed = True, timing_faces: TimingFaces = 8,
    timing_runs: TimingRuns = 3, server: Server = "", released_steps: ReleasedSteps = 400,
) -> None:  # fmt: skip
    """Measure protection as a stranger would: by recognisers, and on people, that no training saw."""
    torch.manual_seed(seed)
    settings = Settings(
        faces=faces, photos=photos, models=models, run=run, recognisers=tuple(recogniser or ()),
        recipes=tuple(recipe or RECIPES), precisions=tuple(precision or ()), methods=tuple(method or ()),
        people=people, all_people=all_people, fresh=fresh, device=device, seed=seed,
        timing_faces=timing_faces if timing else 0, timing_runs=timing_runs,
        server=server, released_steps=released_steps, every=every, photos_limit=photos_limit, rivals=rivals,
        other_detector=other_detector, sheets=sheets,
    )  # fmt: skip
    try:
        check_device(device)
        if level in (Level.PHOTOS, Level.SIZES, Level.ALL) and not photos.is_dir():
            raise DataError(f"no photos at {photos}: name a folder of PERSON/PHOTO.jpg with --photos")
        _measure(Bench(settings), level, json_file, markdown, plots)
    except (ApfError, DataError) as error:
        typer.echo(f"apf.research.evaluate: {error}", err=True)
        raise typer.Exit(2) from error


def _measure(bench: Bench, level: Level, json_file: Path | None, markdown: Path | None, plots: Path | None) -> None:
    found = _report(bench, level)
    if json_file:
        reports.write(json_file, found.model_dump_json(indent=1) + "\n")
    if markdown:
        reports.write(markdown, reports.markdown(found))
    if plots:
        draw(found.crops, plots)
    reports.show(found, Console(width=None if sys.stdout.isatty() else FILE_WIDTH))


def _report(bench: Bench, level: Level) -> reports.Report:
    def wanted(one: Level) -> bool:
        return level in (one, Level.ALL)

    return reports.report(
        bench.targets,
        device=bench.settings.device,
        recipe=bench.middle.name,
        people=len(bench.pairs.people),
        gallery=len(set(bench.faces.people)),
        photos=bench.photos() if wanted(Level.PHOTOS) else (),
        sizes=bench.sizes() if wanted(Level.SIZES) else (),
        crops=bench.crops() if wanted(Level.CROPS) else (),
        kinds=bench.kinds() if wanted(Level.KINDS) else (),
    )


if __name__ == "__main__":
    app()
