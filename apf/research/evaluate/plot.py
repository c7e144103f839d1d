"""Protection against picture quality: a point for each method, ours joined to a curve."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from apf.research.evaluate.conditions import TITLES
from apf.research.evaluate.crops import Row
from apf.research.evaluate.targets import FALSE_ACCEPT_RATES

#: A palette makes the file a third as large, and shows no less.
COLOURS = 128
SIZE_INCHES, DOTS_PER_INCH = (8, 5), 90
#: Percent, with room for the points at 0 and 100.
LIMITS = (-3, 106)
#: Names stand at least this far apart, in percent of protection, so that none covers another.
NAME_HEIGHT = 4.6
OURS, PART, RIVAL = "#0b6e4f", "#7fb8a4", "#b5482a"


def plots(rows: Sequence[Row], folder: Path) -> list[Path]:
    """One PNG for each condition; rows that change nothing, or that no stranger saw, have no point."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_plot(rows, condition, folder) for condition in (rows[0].conditions if rows else ())]


def _plot(rows: Sequence[Row], condition: str, folder: Path) -> Path:
    figure = Figure(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.subplots()
    points = [(row, point) for row in rows if (point := _point(row, condition))]
    curve = sorted(point for row, point in points if row.recipe)
    axes.plot([x for x, _ in curve], [y for _, y in curve], color=OURS, zorder=1)
    for row, (x, y) in points:
        axes.scatter(x, y, color=_colour(row), s=30, zorder=2)
    _label(axes, [(row.method, point) for row, point in points])
    axes.set_xlabel("PSNR on the face, dB")
    axes.set_ylabel(f"protection at FAR {100 * FALSE_ACCEPT_RATES[0]:g} %, mean of unseen, %")
    axes.set_ylim(*LIMITS)
    axes.margins(x=0.12)
    axes.grid(alpha=0.3)
    axes.set_title(TITLES.get(condition, condition))
    file = folder / f"{condition}.png"
    buffer = io.BytesIO()
    figure.savefig(buffer)
    Image.open(buffer).convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE).save(file, optimize=True)
    return file


def _point(row: Row, condition: str) -> tuple[float, float] | None:
    unseen = row.conditions[condition].unseen
    return (row.psnr_db, unseen.protection[0]) if unseen and row.psnr_db is not None else None


def _label(axes: Axes, points: Sequence[tuple[str, tuple[float, float]]]) -> None:
    """Draw the names, in a column at the right, each with a line to its point: methods crowd where protection is
    high.
    """
    ordered = sorted(points, key=lambda named: named[1][1])
    heights = _apart([y for _, (_, y) in ordered])
    for (name, point), height in zip(ordered, heights, strict=True):
        axes.annotate(
            name,
            xy=point,
            xytext=(1.03, height),
            textcoords=axes.get_yaxis_transform(),
            arrowprops={"arrowstyle": "-", "color": "0.7", "linewidth": 0.6, "shrinkB": 3, "relpos": (0, 0.5)},
            fontsize=8,
            va="center",
            annotation_clip=False,
        )


def _apart(heights: Sequence[float]) -> list[float]:
    """Rising heights, moved up, and then down from the top again, until neighbours stand apart."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + NAME_HEIGHT) if placed else height)
    roof = float(LIMITS[1])
    for index in reversed(range(len(placed))):
        placed[index] = min(placed[index], roof)
        roof = placed[index] - NAME_HEIGHT
    return placed


def _colour(row: Row) -> str:
    return OURS if row.recipe else PART if row.method.startswith("ours") else RIVAL
