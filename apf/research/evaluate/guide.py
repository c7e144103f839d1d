"""`python -m apf.research.evaluate.guide GUIDE.onnx`: in a few minutes, how well steps on a guide hide a dozen real
faces.

Alone or with other guides, as the recipe's steps take them; told are the recognisers that it was not taught by.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from apf.errors import ApfError
from apf.recipe import BUILT_IN, Recipe, make_recipe
from apf.research.evaluate.__main__ import SHARED, FacesPath, ModelsPath, PhotosPath
from apf.research.evaluate.bench import Bench, Settings
from apf.research.evaluate.photos import PhotoBench, PhotoRow, photo_row
from apf.research.evaluate.whole_photos.conditions import CONDITIONS
from apf.research.evaluate.whole_photos.protectors import by_recipe
from apf.research.train.data import DataError

#: What the quick judge asks for: as published, and after half size and JPEG.
ASKED = ("published", "both")


def judged(bench: Bench, guide: str, beside: tuple[str, ...] = (), *, steps: int, faces: int) -> PhotoRow:
    """Return the row of the standard recipe with these guides and steps, on so many faces spread over the photos."""
    whole = bench.photo_bench
    few = PhotoBench(
        whole.subjects,
        whole.judge,
        whole.detector,
        conditions={name: CONDITIONS[name] for name in ASKED},
        every=max(1, len(whole.subjects) // faces),
        limit=faces,
    )
    return photo_row(few, by_recipe(_recipe((*beside, guide), steps), bench.targets))


def _recipe(guides: tuple[str, ...], steps: int) -> Recipe:
    return make_recipe({**BUILT_IN["standard"], "name": "guide", "guides": guides, "steps": steps})


def told(row: PhotoRow) -> str:
    """Return the row in a few lines."""
    lines = [f"guides and teachers, left out: {', '.join(row.guides) or 'none'}"]
    for name, one in row.conditions.items():
        each = ", ".join(
            f"{target} {_rates(verdict.protection)}"
            for target, verdict in one.recognisers.items()
            if target not in row.guides
        )
        mean = one.unseen
        if mean:
            together = f", together {_rates(mean.together)}" if mean.together else ""
            lines.append(
                f"{name}: {_rates(mean.protection)} ({each}); rank 1 {mean.found:.0f}{together}; {one.pairs} pairs"
            )
    seen = row.looks
    looks = f"CIEDE2000 {seen.colour_mean:.2f}, SSIM {seen.ssim:.3f}, " if seen else ""
    return "\n".join([*lines, f"{looks}{row.seconds_a_face or 0:.2f} s a face"])


def _rates(percents: tuple[float, ...]) -> str:
    return "/".join(f"{percent:.0f}" for percent in percents)


def main(
    guide: Annotated[str, typer.Argument(help="As recipes name guides: that of one that ships, or an ONNX file.")],
    beside: Annotated[list[str] | None, typer.Option(help="A further guide, by name or file; may repeat.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each face.")] = 20,
    count: Annotated[int, typer.Option(min=2, help="Faces that are protected.")] = 12,
    faces: FacesPath = SHARED / "faces" / "lfw112.tar",
    photos: PhotosPath = SHARED / "photos",
    models: ModelsPath = SHARED / "face_models",
    run: Annotated[Path, typer.Option(help="Keeps what recognisers say of clean faces.")] = Path("runs"),
) -> None:
    """Protect a dozen faces by steps on this guide, and tell who still knows them."""
    logging.basicConfig(level=logging.WARNING)
    try:
        bench = Bench(Settings(faces=faces, photos=photos, models=models, run=run))
        typer.echo(told(judged(bench, guide, tuple(beside or ()), steps=steps, faces=count)))
    except (ApfError, DataError) as error:
        typer.echo(f"apf.research.evaluate.guide: {error}", err=True)
        raise typer.Exit(2) from error


if __name__ == "__main__":
    typer.run(main)
