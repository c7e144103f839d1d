"""What comes out: JSON that reads back, tables and plots that leave nobody out."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from apf.research.evaluate import crops, sheets
from apf.research.evaluate import report as reports
from apf.research.evaluate.conditions import CONDITIONS, TITLES
from apf.research.evaluate.crops import Mean, Row, Seen, Timing
from apf.research.evaluate.kinds import KindRow
from apf.research.evaluate.metrics import Rate
from apf.research.evaluate.photos import Judged, PhotoRow
from apf.research.evaluate.plot import plots
from apf.research.evaluate.report import Report
from apf.research.evaluate.whole_photos.judge import Verdict
from apf.research.evaluate.whole_photos.looks import Looks
from apf.research.evaluate.whole_photos.sizes import SizeRow

METHODS = ["none", "noise", "sign noise", "PGD-10 (probe)", "released APF", "MI-DI-10", "MI-DI-40", "LowKey-like"]
METHODS += ["Fawkes-like", "ours: gradient", "ours: universal", "ours: gradient + universal", "ours: light"]
METHODS += ["ours: gradient + transfer", "ours: standard", "ours: strong"]


def row(method: str, percent: float, number: int, cost: float | None) -> Row:
    rate = Rate(percent=percent, low=max(0, percent - 5), high=min(100, percent + 5))
    verdicts = {name: crops.Verdict(protection=(rate, rate), rank1=rate) for name in ("known", "stranger")}
    mean = Mean(protection=(percent, percent), rank1=percent)
    recipe = method.removeprefix("ours: ")
    return Row(
        method=method,
        recipe=recipe if recipe in ("light", "standard", "strong") else "",
        psnr_db=None if method == "none" else 30 + number / 4,
        ssim=0.9,
        conditions={name: Seen(recognisers=verdicts, unseen=mean, trained=mean) for name in CONDITIONS},
        timing=None if cost is None else Timing(minimum_ms=cost, median_ms=2 * cost, faces=8, runs=3),
    )


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    costs = {"MI-DI-40": 5000.0, "ours: standard": 40.0}
    return [row(name, 90 + number / 2, number, costs.get(name)) for number, name in enumerate(METHODS)]


@pytest.fixture(scope="module")
def found(rows: list[Row]) -> Report:
    rates = {"stranger": (91.0, 99.0)}
    verdict = Verdict(protection=(91.0, 99.0), template=(71.0, 88.0), together=(12.0, 3.0), found=17.0)
    judged = Judged(
        pairs=20, lost=1, recognisers={"known": verdict, "stranger": verdict}, unseen=verdict, validate_only=None
    )
    looks = Looks(
        colour_mean=1.5, colour_95=4.0, seen_mean=0.7, seen_95=2.0, ssim=0.961, ssim_warped=0.86, shift_mean=0.4,
        shift_most=0.8,
    )  # fmt: skip
    photos = [
        PhotoRow(
            method="ours: standard", recipe="standard", photos=9, faces=11, weak=2, guides=("known",),
            conditions={"published": judged, "80 px": judged}, looks=looks, seconds_a_face=1.25,
        )
    ]  # fmt: skip
    size = SizeRow(
        face_px=40, found_px=39.5, photos=9, upscaled=3, lost=1, lost_clean=2, clean=verdict, protected=verdict
    )
    kind = KindRow("greyscale", "raw", 12, rates, rates, rates, (3.0, 9.0), (93.0, 98.0), (90.0, 89.0))
    return reports.report(
        [],
        device="cpu",
        recipe="standard",
        people=12,
        gallery=40,
        crops=rows,
        photos=photos,
        sizes=[size],
        kinds=[kind],
    )


def test_json_round_trip(found: Report) -> None:
    """A report written as JSON reads as the same report, whole photos and kinds with it."""
    assert Report.model_validate_json(found.model_dump_json(indent=1)) == found


def test_machine_is_named(found: Report) -> None:
    """Times mean nothing without the machine: processor, threads and torch are in the report."""
    assert found.machine.processor
    assert found.machine.torch_threads >= 1
    assert found.machine.torch
    assert found.command.startswith("python -m apf.research.evaluate")
    assert len(found.weights) == 64


def test_markdown_has_everything(found: Report) -> None:
    """Every condition has a table, every method a line in each; each line has as many cells as the head."""
    text = reports.markdown(found)
    for condition in CONDITIONS:
        assert f"**{TITLES[condition]}: protection" in text
    photos, crops_part = text.split("**Recognisers that no training saw")
    for method in METHODS:
        assert crops_part.count(f"\n| {method} |") == len(CONDITIONS) + 1  # and one in the summary
    for part in (
        "Whole photos, 9 protected",
        "| 40 px |",
        "1 (+2)",
        "91 / 99 (guide)",
        "2 of 11",
        "1.50 / 4.00",
        "80 px",
    ):
        assert part in photos, f"whole photos come first, with {part}"
    assert "| greyscale | raw |" in crops_part
    for table in text.split("**")[2::2]:
        widths = {line.count("|") for line in table.splitlines() if line.startswith("|")}
        assert len(widths) == 1


def test_summary_puts_the_conditions_side_by_side(rows: list[Row]) -> None:
    """The first table has one line a method: the mean of the strangers under every condition, and what it costs."""
    (sheet,) = sheets.summary(rows)
    assert sheet.columns == ("method", *CONDITIONS, "rank-1", "PSNR dB", "SSIM", "ms a face")
    assert sheet.rows[0] == ("none", *["90 / 90"] * len(CONDITIONS), "90", "-", "0.900", "-")
    assert [line[0] for line in sheet.rows] == METHODS


def test_no_summary_without_strangers(rows: list[Row]) -> None:
    """Where every recogniser was attacked in training there is no mean of strangers, and so no summary."""
    unseen = {name: seen.model_copy(update={"unseen": None}) for name, seen in rows[0].conditions.items()}
    assert sheets.summary([rows[0].model_copy(update={"conditions": unseen})]) == []
    assert sheets.summary([]) == []


def test_costs_are_compared_with_the_yardstick(rows: list[Row]) -> None:
    """A timed method says how many times as long MI-DI-40 takes; without that row it says its own time alone."""
    assert reports.costs(rows)[-1] == "ours: standard: 40.0 ms a face, MI-DI-40 takes 125.0 times as long"
    assert reports.costs(rows[-2:-1]) == ["ours: standard: 40.0 ms a face"]


def test_terminal_tables_fit(found: Report) -> None:
    """The terminal shows every method, and no line is wider than the terminal."""
    out = io.StringIO()
    reports.show(found, Console(file=out, width=110))
    assert all(method in out.getvalue() for method in METHODS)
    assert max(map(len, out.getvalue().splitlines())) <= 110


def test_plots(rows: list[Row], tmp_path: Path) -> None:
    """One small PNG for each condition, at a size that a page can show; it is not blank."""
    files = plots(rows, tmp_path / "plots")
    assert [file.stem for file in files] == list(CONDITIONS)
    for file in files:
        assert file.stat().st_size < 60_000
        with Image.open(file) as picture:
            assert picture.format == "PNG"
            assert picture.width >= 700
            assert len(picture.convert("RGB").getcolors() or []) > 10


def test_plots_of_nothing(tmp_path: Path) -> None:
    """No rows give no plots; rows that changed nothing, or that no stranger judged, give plots without points."""
    assert plots([], tmp_path) == []
    unseen = {"raw": Seen(recognisers={}, unseen=None, trained=None)}
    unjudged = row("ours: light", 50, 1, None).model_copy(update={"conditions": unseen})
    assert len(plots([unjudged], tmp_path)) == 1
