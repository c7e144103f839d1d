"""What was measured, as JSON, as tables for a terminal and as Markdown."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from apf.research.evaluate import sheets
from apf.research.evaluate.crops import Row
from apf.research.evaluate.kinds import KindRow
from apf.research.evaluate.methods import YARDSTICK
from apf.research.evaluate.photos import PhotoRow
from apf.research.evaluate.sheets import Sheet
from apf.research.evaluate.targets import FALSE_ACCEPT_RATES, Target
from apf.research.evaluate.whole_photos.sizes import SizeRow
from apf.research.evaluate.whole_photos.tables import of_photos, of_sizes
from apf.weight_files import weights_digest


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Machine(_Part):
    """Where the times were taken."""

    processor: str
    processors: int
    torch_threads: int
    device: str
    python: str
    torch: str


class Recognised(_Part):
    """A recogniser as it was used."""

    name: str
    trained_on: bool
    sha256: str
    thresholds: tuple[float, ...]


class Report(_Part):
    """Everything that one run of the command found."""

    command: str
    machine: Machine
    #: SHA-256 over the weights that ours used.
    weights: str
    false_accept_rates: tuple[float, ...]
    recognisers: tuple[Recognised, ...]
    #: The recipe of sizes and kinds; its bound is that of the rivals.
    recipe: str
    #: People whose aligned crops were measured, and everybody in the gallery with them.
    people: int
    gallery: int
    photos: tuple[PhotoRow, ...] = ()
    sizes: tuple[SizeRow, ...] = ()
    crops: tuple[Row, ...] = ()
    kinds: tuple[KindRow, ...] = ()


def report(targets: Sequence[Target], *, device: str, **parts: Any) -> Report:
    """Return a report of this run on this machine; `parts` are the further fields of `Report`."""
    return Report(
        command=shlex.join(["python", "-m", "apf.research.evaluate", *sys.argv[1:]]),
        machine=machine(device),
        weights=weights_digest(),
        false_accept_rates=FALSE_ACCEPT_RATES,
        recognisers=tuple(
            Recognised(name=t.name, trained_on=t.trained_on, sha256=t.sha256, thresholds=t.thresholds) for t in targets
        ),
        **parts,
    )


def machine(device: str) -> Machine:
    """Where we are, by the processor's (or GPU's) name."""
    return Machine(
        processor=processor(),
        processors=os.cpu_count() or 1,
        torch_threads=torch.get_num_threads(),
        device=torch.cuda.get_device_name() if device.startswith("cuda") else device,
        python=platform.python_version(),
        torch=torch.__version__,
    )


def pages(found: Report) -> list[Sheet]:
    """All tables of a report, whole photos first: aligned crops flatter."""
    photos = [*of_photos(found.photos), *of_sizes(found.sizes, found.recipe)]
    crops = [*sheets.summary(found.crops), *sheets.of_crops(found.crops)]
    return [*photos, *crops, *(sheets.of_kinds(found.kinds) if found.kinds else [])]


def costs(rows: Sequence[Row]) -> list[str]:
    """Return a line for each timed method: what it costs, compared with the yardstick where that was timed."""
    timed = [(row.method, row.timing.minimum_ms) for row in rows if row.timing]
    yardstick = next((cost for name, cost in timed if name == YARDSTICK), None)
    compared = (f", {YARDSTICK} takes {yardstick / cost:.1f} times as long" if yardstick else "" for _, cost in timed)
    return [f"{name}: {cost:.1f} ms a face{ratio}" for (name, cost), ratio in zip(timed, compared, strict=True)]


def markdown(found: Report) -> str:
    """Return the tables for a page, after the command and the machine."""
    where = f"{found.machine.processor}, {found.machine.device}, {found.machine.torch_threads} threads"
    lines = [
        f"{found.people} people with two photos each, {found.gallery} in the gallery; recipe {found.recipe}; weights "
        f"{found.weights[:16]}; {where}, torch {found.machine.torch}. Command: `{found.command}`",
    ]
    for page in pages(found):
        rule = ("---", *("---:" for _ in page.columns[1:]))
        lines += ["", f"**{page.title}**", "", *(table_line(row) for row in (page.columns, rule, *page.rows))]
    if found.crops:
        lines += ["", *(f"- {line}" for line in costs(found.crops))]
    return "\n".join(lines).rstrip() + "\n"


def show(found: Report, console: Console) -> None:
    """Print all tables, and what the methods cost."""
    for page in pages(found):
        made = Table(title=page.title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
        for number, name in enumerate(page.columns):
            # Names of models are one long word; a narrow head breaks at spaces.
            made.add_column(
                name.replace("_", " "), justify="right" if number else "left", no_wrap=not number, overflow="fold"
            )
        for row in page.rows:
            made.add_row(*row)
        console.print(made)
    for line in costs(found.crops):
        console.print(line, highlight=False)


def write(file: Path, text: str) -> None:
    """Write a text, with the folders above it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def table_line(parts: Sequence[str]) -> str:
    return "| " + " | ".join(parts) + " |"


def processor() -> str:
    """Return the processor's trade name; `platform` knows only its family on Linux."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
