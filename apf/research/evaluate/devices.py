"""`python -m apf.research.evaluate.devices`: how far the perturbations of a GPU, or in bfloat16, lie from the CPU's."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from torch import Tensor

from apf.errors import ApfError
from apf.filters.precision import PRECISIONS, Precision
from apf.filters.torch_filter import Filter
from apf.research.train.data import DataError, load_faces
from apf.research.train.teachers import check_device

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

#: More than this apart, two roads do not compute the same: bfloat16 on a CPU is at 0.9998 and 0.03 levels.
LEAST_COSINE, MOST_LEVELS = 0.99, 0.5
#: A batch of each size on a GPU, and one that has to be filled up.
COUNTS = (1, 8, 32, 100)


@dataclass(frozen=True)
class Difference:
    """Between two roads' perturbations of the same faces."""

    faces: int
    #: The least of all faces.
    cosine: float
    #: In 255ths.
    mean_levels: float
    largest_levels: float
    #: Of all values, those that would be written as another byte.
    other_bytes_percent: float

    @classmethod
    def of(cls, faces: Tensor, found: Tensor, expected: Tensor) -> Difference:
        """Of perturbations (B, 3, 112, 112) of faces, on the CPU."""
        levels = (found - expected).abs() * 255
        written = [((faces + delta).clamp(0, 1) * 255).round() for delta in (found, expected)]
        return cls(
            faces=len(faces),
            cosine=F.cosine_similarity(found.flatten(1), expected.flatten(1)).min().item(),
            mean_levels=levels.mean().item(),
            largest_levels=levels.max().item(),
            other_bytes_percent=100 * (written[0] != written[1]).float().mean().item(),
        )

    @property
    def is_small(self) -> bool:
        return self.cosine >= LEAST_COSINE and self.mean_levels <= MOST_LEVELS


def differences(faces: Tensor, other: Filter, reference: Filter, counts: tuple[int, ...] = COUNTS) -> list[Difference]:
    """Return a line for each number of faces given at once, as far as there are so many."""
    expected = reference.perturbation(faces[: max(counts)]).cpu()
    counts = tuple(count for count in counts if count <= len(expected))
    return [Difference.of(faces[:n], other.perturbation(faces[:n]).cpu(), expected[:n]) for n in counts]


@app.command()
def main(
    faces: Annotated[Path, typer.Option(help="Tar or folder of PERSON/PICTURE.jpg, 112x112.")],
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cuda",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    graphs: Annotated[bool, typer.Option(help="By CUDA graphs.")] = True,
    most: Annotated[int, typer.Option(min=1, help="Faces to compare.")] = 100,
) -> None:
    """Exit with 1 where the two differ by more than rounding explains, with 2 where it cannot be measured."""
    try:
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise DataError("needs a CUDA device: name another with --device")
        check_device(device)
        found = _measure(faces, device, precision, graphs, most)
    except (ApfError, DataError, ValueError) as error:
        typer.echo(f"apf.research.evaluate.devices: {error}", err=True)
        raise typer.Exit(2) from error
    names = list(asdict(found[0]))
    typer.echo(" | ".join(names))
    for one in found:
        typer.echo(" | ".join(f"{value:.6g}" for value in asdict(one).values()))
    if not all(one.is_small for one in found):
        raise typer.Exit(1)


def _measure(file: Path, device: str, precision: str, graphs: bool, most: int) -> list[Difference]:
    if precision not in PRECISIONS:
        raise DataError(f"no precision named {precision!r}: use one of {', '.join(PRECISIONS)}")
    known: Precision = precision  # type: ignore[assignment]  # one of them
    kept = load_faces(file)
    some = kept.batch(torch.arange(min(most, len(kept))))
    other = Filter.load("standard", device, precision=known, graphs=graphs)
    return differences(some, other, Filter.load("standard"))


if __name__ == "__main__":
    app()
