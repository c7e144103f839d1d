"""Render cards as HTML: one template, one style sheet, one script, and the photos' data as JSON.

Keys, reasons and notes are anybody's text: in HTML they are escaped, in the data no character can end its element, and
the script writes text only. The page's own policy lets nothing in but this style, this script, and pictures from the
page itself (`data:`) or the folder beside it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from apf.recipe import Recipe
from workers.report.advice import cure
from workers.report.card import legible
from workers.report.output_files import GENERATOR
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


def embedded(name: str, data: bytes) -> str:
    """Return a picture's source inside the page itself."""
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}"


def render(summary: BatchSummary, records: Sequence[dict[str, Any]], scope: Scope) -> str:
    """Return the whole page."""
    batch = summary.batch
    style, script = _part("page.css"), _part("page.js")
    return Template(_part("page.html")).substitute(
        generator=GENERATOR,
        policy=escape(_policy(style, script, beside=scope.beside)),
        title=escape(f"Photos protected on {_day(batch.created_at)}"),
        style=style,
        script=script,
        day=escape(_day(batch.created_at)),
        created=escape(batch.created_at),
        tiles=_tiles(summary),
        kind=' class="private"' if scope.private else "",
        privacy=_privacy(scope),
        facts=_facts(summary, scope),
        failures=_failures(summary),
        data=_json({"photos": list(records)}),
    )


@cache
def _part(name: str) -> str:
    return files("workers.report").joinpath(name).read_text(encoding="utf-8")


def _policy(style: str, script: str, *, beside: bool) -> str:
    # 'self' is no file: URL's own folder in every browser.
    pictures = "data: 'self' file:" if beside else "data:"
    return (
        f"default-src 'none'; img-src {pictures}; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"


def _json(value: object) -> str:
    """JSON that may stand inside <script>: ASCII, and without the three characters that HTML knows."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _tiles(summary: BatchSummary) -> str:
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
    return "\n".join(
        f'<li class="tile {kind}{"" if count else " zero"}">'
        f'<span class="count">{count:,}</span> <span class="what">{what}</span></li>'
        for kind, count, what in tiles
    )


def _privacy(scope: Scope) -> str:
    if scope.private:
        return (
            '<p class="privacy" role="note"><strong>The photos are with their owners.</strong> This batch was private: '
            "gradients came in, and perturbations went out. So there are figures and failures below, and no "
            "pictures.</p>"
        )
    if scope.with_originals:
        return (
            '<p class="privacy warn" role="note"><strong>This page holds unprotected photos.</strong> Keep it to '
            "yourself: it was made with <code>--with-originals</code>, and it shows your originals, reduced "
            "in size.</p>"
        )
    return (
        '<p class="privacy" role="note"><strong>No original is in this page.</strong> It shows what is published, '
        "reduced in size. To compare with the originals, make it again with <code>--with-originals</code>, for "
        "yourself alone.</p>"
    )


def _bound(recipe: Recipe) -> str:
    warp = f", points of it by at most {recipe.warp_percent:g} % of its side" if recipe.steps else ""
    return f"a pixel of a face moves by at most {recipe.most_levels} of 255 levels{warp}"


def _facts(summary: BatchSummary, scope: Scope) -> str:
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
    return "\n".join(f"<div><dt>{name}</dt><dd>{_text(value)}</dd></div>" for name, value in facts)


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


def _failures(summary: BatchSummary) -> str:
    if not summary.failures:
        return ""
    shown = summary.failures[:LISTED_FAILURES]
    cures = [cure(failure.reason, transient=failure.transient, code=failure.code) for failure in shown]
    rows = "\n".join(
        f"<li><h3><bdi>{_text(failure.key)}</bdi></h3><p>{_text(failure.reason)}</p>"
        f'<p class="cure"><strong>What to do.</strong> {escape(advice)}</p>'
        "</li>"
        for failure, advice in zip(shown, cures, strict=True)
    )
    more = len(summary.failures) - LISTED_FAILURES
    rest = f"<p>And {more:,} more: they are among the photos below, under “Failed”.</p>" if more > 0 else ""
    again = shlex.join(["apf", "retry", _place(summary.batch.destination), summary.batch.id])
    return (
        '<section class="failures" aria-labelledby="failures-title"><h2 id="failures-title">Failed photos</h2>'
        f"<p>They have no output: nothing unprotected was published. To try all of them again:</p>"
        f"<pre><code>{_text(again)}</code></pre><ol>{rows}</ol>{rest}</section>"
    )


def _place(url: str) -> str:
    """Return a folder's path rather than its URL, as the user knows it."""
    return str(file_path(url)) if url.startswith("file:") else url


def _text(text: str) -> str:
    return escape(legible(text))


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
