"""Render cards as HTML: one template, one style sheet, one script, and the photos' data as JSON.

Keys, reasons and notes are anybody's text: in HTML they are escaped, in the data no character can end its element, and
the script writes text only. The page's own policy lets nothing in but this style, this script, and pictures from the
page itself (`data:`) or the folder beside it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from markupsafe import Markup

from apf.recipe import Recipe
from workers.report.advice import cure
from workers.report.output_files import GENERATOR
from workers.report.single_file import digest, part, templates
from workers.status.batch_status import BatchSummary
from workers.store.urls import file_path

#: Failures that stand in the page's text; the grid shows all of them.
LISTED_FAILURES = 100
#: Left out of the source; stands in the page's facts.
LISTED_LEFT_OUT = 20


@dataclass(frozen=True)
class Scope:
    """The batch as the page shows it."""

    shown: int
    #: Photos with an outcome; more than `shown` where the page was limited.
    of: int
    measured: int
    #: Photos with protected faces that were shown and not measured.
    unmeasured: int
    with_originals: bool
    #: Whether pictures lie in a folder beside the page.
    beside: bool
    #: Of a private batch: there are no pictures.
    private: bool = False


def render(summary: BatchSummary, records: Sequence[dict[str, Any]], scope: Scope) -> str:
    """Return the whole page."""
    batch = summary.batch
    style, script = part("workers.report", "page.css"), part("workers.report", "page.js")
    failures = [
        (one.key, one.reason, cure(one.reason, transient=one.transient, code=one.code))
        for one in summary.failures[:LISTED_FAILURES]
    ]
    return (
        templates("workers.report")
        .get_template("page.html")
        .render(
            generator=Markup(GENERATOR),  # noqa: S704  our own
            style=Markup(style),  # noqa: S704
            script=Markup(script),  # noqa: S704
            data=Markup(_json({"photos": list(records)})),  # noqa: S704  without what HTML knows
            policy=_policy(style, script, beside=scope.beside),
            batch=batch,
            day=_day(batch.created_at),
            scope=scope,
            tiles=_tiles(summary),
            facts=_facts(summary, scope),
            failures=failures,
            more_failures=len(summary.failures) - len(failures),
            again=shlex.join(["apf", "retry", _place(batch.destination), batch.id]),
        )
    )


def _policy(style: str, script: str, *, beside: bool) -> str:
    # 'self' is no file: URL's own folder in every browser.
    pictures = "data: 'self' file:" if beside else "data:"
    return (
        f"default-src 'none'; img-src {pictures}; style-src {digest(style)}; script-src {digest(script)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _json(value: object) -> str:
    """JSON that may stand inside <script>: ASCII, and without the three characters that HTML knows."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _tiles(summary: BatchSummary) -> list[tuple[str, int, str]]:
    """Return the sums that the page begins with: kind, number, and what is counted."""
    tiles = [
        ("protected", summary.protected, "protected"),
        ("faces", summary.faces, "faces protected"),
        ("no_face", summary.no_face, "without a face"),
        ("skipped", summary.skipped, "done before"),
        ("failed", summary.failed, "failed"),
    ]
    if summary.weak_faces:
        tiles.insert(2, ("weak", summary.weak_faces, "weak: a juror still knows them"))
    if left := summary.pending + summary.missing:
        tiles.append(("pending", left, "without an outcome yet"))
    return tiles


def _bound(recipe: Recipe) -> str:
    warp = f", points of it by at most {recipe.warp_percent:g} % of its side" if recipe.steps else ""
    return f"a pixel of a face moves by at most {recipe.most_levels} of 255 levels{warp}"


def _facts(summary: BatchSummary, scope: Scope) -> list[tuple[str, str]]:
    batch, recipe = summary.batch, summary.batch.recipe
    facts = [
        ("From", _place(batch.source)),
        ("Into", _place(batch.destination)),
        ("Recipe", f"{recipe.name}: {_bound(recipe)}"),
        ("Work", f"{_duration(summary.wall_seconds)} of a worker's time"),
        ("Batch", batch.id),
        ("Measured", _measured(scope)),
    ]
    if recipe.steps and not batch.private:
        facts.insert(3, ("Jury", _jury(recipe)))
    if scope.shown < scope.of:
        facts.append(("Shown", f"{scope.shown:,} of {scope.of:,} photos, failed ones first (--limit)"))
    if batch.ignored:
        what = "gradient files" if batch.private else "photos"
        facts.append(("Ignored", f"{batch.ignored:,} other files that are no {what} by their names, or excluded"))
    if left := summary.left_out.total:
        named = "; ".join(f"{one.key} ({one.reason})" for one in summary.left_out.named[:LISTED_LEFT_OUT])
        rest = f"; and {left - LISTED_LEFT_OUT:,} more" if left > LISTED_LEFT_OUT else ""
        facts.append(("Left out", f"{left:,}, not protected: {named}{rest}"))
    if summary.stopped:
        facts.append(("Stopped", f"the batch was {summary.stopped}: apf resume goes on with it"))
    if batch.note:
        facts.append(("Note", batch.note))
    return facts


def _jury(recipe: Recipe) -> str:
    # A reader of the page need not know where files lie.
    names = ", ".join(name.rstrip("/").rsplit("/", 1)[-1] for name in recipe.jury or recipe.guides)
    if recipe.jury:
        return f"{names}: recognisers that the filter did not work on say which faces are weak"
    return f"{names}, on which the filter itself worked: that it no longer knows a face says little of others"


def _measured(scope: Scope) -> str:
    if scope.private:
        return "no photo: they are with their owners"
    if not scope.measured and not scope.unmeasured:
        return "no photo here has a protected face"
    if not scope.measured:
        return "no photo: sources were not read (--measure), or are gone"
    if scope.unmeasured:
        return f"{scope.measured:,} photos; {scope.unmeasured:,} others were not (--measure), or their source is gone"
    return "every photo with a protected face"


def _place(url: str) -> str:
    """Return a folder's path rather than its URL, as the user knows it."""
    return str(file_path(url)) if url.startswith("file:") else url


def _day(created_at: str) -> str:
    try:
        when = datetime.fromisoformat(created_at)
    except ValueError:
        return created_at
    return f"{when.day} {when:%B %Y}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
