"""Rows of whole photos as sheets of text."""

from __future__ import annotations

from collections.abc import Sequence

from apf.research.evaluate.photos import Judged, PhotoRow
from apf.research.evaluate.sheets import RATES, Sheet, percents
from apf.research.evaluate.whole_photos.conditions import TITLES
from apf.research.evaluate.whole_photos.judge import Verdict
from apf.research.evaluate.whole_photos.scielab import PIXELS_A_DEGREE
from apf.research.evaluate.whole_photos.sizes import SizeRow

#: Beside the figures of a recogniser that the method climbed on, which are no part of the means.
GUIDE = " (guide)"


def of_photos(rows: Sequence[PhotoRow]) -> list[Sheet]:
    """Return the means first, then other ways to look for people, what is seen, and each condition by recogniser."""
    if not rows:
        return []
    return [_by_condition(rows), _otherwise(rows), _looks(rows), *(_recognisers(rows, name) for name in _names(rows))]


def of_sizes(rows: Sequence[SizeRow], method: str) -> list[Sheet]:
    """One sheet: sizes down, protected and unprotected."""
    if not rows:
        return []
    columns = ("face", "photos", "enlarged", "face lost", "unprotected", "protected", "template", "found at rank 1")
    lines = tuple(
        (
            f"{row.face_px} px",
            str(row.photos),
            str(row.upscaled),
            f"{row.lost} (+{row.lost_clean})",
            _protection(row.clean),
            _protection(row.protected),
            percents(row.protected.template) if row.protected else "-",
            f"{row.protected.found:.0f}" if row.protected else "-",
        )
        for row in rows
    )
    return [Sheet(f"Whole photos by size of the face, {method}: protection in percent at FAR {RATES}", columns, lines)]


def _names(rows: Sequence[PhotoRow]) -> list[str]:
    return list(rows[0].conditions)


def _by_condition(rows: Sequence[PhotoRow]) -> Sheet:
    title = (
        f"Whole photos, {rows[0].photos} protected: percent of pairs not matched at FAR {RATES}, mean of the "
        "recognisers that the method did not climb on"
    )
    lines = tuple((row.method, *(_protection(row.conditions[name].unseen) for name in _names(rows))) for row in rows)
    return Sheet(title, ("method", *_names(rows)), lines)


def _otherwise(rows: Sequence[PhotoRow]) -> Sheet:
    first = _names(rows)[0]
    columns = ("method", "pairs", "face lost", "not matched", "validate", "template", "together", "found at rank 1")
    title = (
        f"Whole photos, {TITLES.get(first, first).lower()}: not matched, by validate recognisers alone, to the mean of "
        f"the person's other photos; matched pairs of protected photos; found among strangers. Percent at FAR {RATES}"
    )
    return Sheet(title, columns, tuple((row.method, *_searched(row.conditions[first])) for row in rows))


def _searched(judged: Judged) -> tuple[str, ...]:
    unseen = judged.unseen
    return (
        str(judged.pairs),
        str(judged.lost),
        _protection(unseen),
        _protection(judged.validate_only),
        percents(unseen.template) if unseen else "-",
        percents(unseen.together) if unseen and unseen.together else "-",
        f"{unseen.found:.0f}" if unseen else "-",
    )


def _looks(rows: Sequence[PhotoRow]) -> Sheet:
    title = (
        "What is seen on the face, with the warp undone: CIEDE2000 and the same as an eye blurs it (S-CIELAB, "
        f"{PIXELS_A_DEGREE} pixels a degree), mean and 95th percentile; SSIM of luma at the photo's size. Beside it "
        "the warp, mean and largest, in percent of the face"
    )
    columns = ("method", "CIEDE2000", "S-CIELAB", "SSIM", "warp %", "SSIM with warp", "s a face", "weak faces")
    return Sheet(title, columns, tuple((row.method, *_look(row)) for row in rows))


def _look(row: PhotoRow) -> tuple[str, ...]:
    weak = f"{row.weak} of {row.faces}" if row.recipe else "-"
    seconds = "-" if row.seconds_a_face is None else f"{row.seconds_a_face:.2f}"
    if not row.looks:
        return (*["-"] * 5, seconds, weak)
    seen = row.looks
    return (
        f"{seen.colour_mean:.2f} / {seen.colour_95:.2f}",
        f"{seen.seen_mean:.2f} / {seen.seen_95:.2f}",
        f"{seen.ssim:.3f}",
        f"{seen.shift_mean:.2f} / {seen.shift_most:.2f}",
        f"{seen.ssim_warped:.3f}",
        seconds,
        weak,
    )


def _recognisers(rows: Sequence[PhotoRow], condition: str) -> Sheet:
    names = list(dict.fromkeys(name for row in rows for name in row.conditions[condition].recognisers))
    title = f"{TITLES.get(condition, condition)}: percent of pairs not matched at FAR {RATES}"
    lines = []
    for row in rows:
        judged = row.conditions[condition]
        own = (_protection(judged.recognisers.get(name)) + GUIDE * (name in row.guides) for name in names)
        lines.append((row.method, *own, _protection(judged.unseen), str(judged.lost)))
    return Sheet(title, ("method", *names, "mean unseen", "face lost"), tuple(lines))


def _protection(verdict: Verdict | None) -> str:
    return percents(verdict.protection) if verdict else "-"
