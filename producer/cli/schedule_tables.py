"""Print schedules and comparisons."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from producer.cli.console import console
from workers.schedules.status import LastRun, Overview

#: Reasons of failures that are listed.
SHOWN_REASONS = 10

#: Columns of a table that is read by a program, or from a file.
PIPE_COLUMNS = 250


def print_table(schedules: Sequence[Overview]) -> None:
    """One line a schedule; what is wrong with one stands below it."""
    if not schedules:
        console.print("no schedules; add one with: apf schedule add NAME SRC DST --every 1d", highlight=False)
        return
    table = Table("name", "into", "when", "recipe", "next", "last", "outcome", box=None, pad_edge=False)
    for one in schedules:
        last = one.last
        table.add_row(
            escape(one.name),
            escape(one.destination),
            escape(_when(one)),
            escape(_recipe(one)),
            "paused" if one.paused else _moment(one.next),
            _moment(last.fired_for) if last else "never",
            escape(_outcome(one)),
        )
    _out().print(table, highlight=False)
    for one in schedules:
        if one.note:
            _out().print(f"{escape(one.name)}: {escape(one.note)}", highlight=False)
        if one.error:
            _out().print(f"[red]{escape(one.name)}:[/red] {escape(one.error)}", highlight=False)


def print_one(one: Overview) -> None:
    """All about one schedule, a line each."""
    lines = {
        "schedule": one.name,
        "from": one.source,
        "into": one.destination,
        "takes": "gradient files, and no photos" if one.private else "",
        "when": _when(one),
        "recipe": _recipe(one),
        "next": "paused" if one.paused else _moment(one.next),
        "last": f"{_moment(one.last.fired_for)}, {one.last.reason}" if one.last else "never",
        "outcome": _outcome(one),
        "skipped": f"{_moment(one.skipped)}: the run before it was still going on" if one.skipped else "",
        "batches": " ".join(one.last.batches) if one.last else "",
        "note": one.note,
        "error": one.error,
    }
    for name, value in lines.items():
        if value:
            _out().print(f"{name:9} {escape(value)}", highlight=False)


def print_comparison(new: dict[str, object], old: dict[str, object]) -> None:
    """Two recipes side by side."""
    table = Table("", escape(f"new: {new['recipe']}"), escape(f"old: {old['recipe']}"), box=None, pad_edge=False)
    for name in ("photos", "faces_per_photo", "weak_faces_per_photo", "bytes_out_over_in", "seconds_per_photo"):
        table.add_row(name.replace("_", " "), _number(new[name]), _number(old[name]))
    for outcome, rate in _numbers(new["rates"]).items():
        table.add_row(outcome.replace("_", " "), _percent(rate), _percent(_numbers(old["rates"])[outcome]))
    for name in ("sample", "psnr_db", "similarity"):
        if name in new:
            table.add_row(name.replace("_", " "), _number(new[name]), _number(old[name]))
    _out().print(table, highlight=False)
    for side in (new, old):
        for reason, count in list(_numbers(side["failures"]).items())[:SHOWN_REASONS]:
            _out().print(f"{side['recipe']}: {count} failed: {escape(reason)}", highlight=False)


def _out() -> Console:
    """Tables are results, and go to stdout."""
    return Console(soft_wrap=True, width=None if sys.stdout.isatty() else PIPE_COLUMNS)


def _when(one: Overview) -> str:
    return one.trigger + (f", if {' or '.join(one.on_change)}" if one.on_change else "")


def _recipe(one: Overview) -> str:
    return one.recipe + (f", {100 * one.fraction:g} % {one.new_recipe}" if one.new_recipe else "")


def _moment(text: str) -> str:
    return text[:19].replace("T", " ") + (" UTC" if text else "")


def _outcome(one: Overview) -> str:
    return "" if one.last is None else _status(one.last)


def _status(last: LastRun) -> str:
    if last.totals:
        named = ("protected", "no_face", "skipped", "failed")
        counts = [f"{last.totals[name]} {name.replace('_', ' ')}" for name in named if last.totals[name]]
        counts += [f"{weak} faces weak"] if (weak := last.totals.get("weak_faces")) else []
        return f"{last.status}: " + (", ".join(counts) or "nothing to do")
    return f"{last.status}, {last.reported} of {last.shards} shards" if last.shards else last.status


def _number(value: object) -> str:
    return "-" if value is None else f"{value}"


def _percent(value: object) -> str:
    return f"{value:.1%}" if isinstance(value, int | float) else "-"


def _numbers(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}
