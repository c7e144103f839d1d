"""Results as plain sheets of text: the same for a terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from apf.research.evaluate.conditions import TITLES
from apf.research.evaluate.crops import Mean, Row, Seen
from apf.research.evaluate.kinds import KindRow
from apf.research.evaluate.targets import FALSE_ACCEPT_RATES

RATES = " / ".join(f"{100 * rate:g} %" for rate in FALSE_ACCEPT_RATES)


@dataclass(frozen=True)
class Sheet:
    """A table with a title; every row is as long as the columns."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def of_crops(rows: Sequence[Row]) -> list[Sheet]:
    """One sheet a condition: methods down, recognisers across."""
    return [_condition(rows, name) for name in (rows[0].conditions if rows else ())]


def summary(rows: Sequence[Row]) -> list[Sheet]:
    """All conditions side by side, as the mean over the recognisers that no training attacked."""
    if not rows or not all(seen.unseen for row in rows for seen in row.conditions.values()):
        return []
    conditions = tuple(rows[0].conditions)
    columns = ("method", *conditions, "rank-1", "PSNR dB", "SSIM", "ms a face")
    title = f"Recognisers that no training saw, mean: protection in percent at FAR {RATES}"
    lines = (
        (
            row.method,
            *(_mean(row.conditions[name].unseen) for name in conditions),
            _rank1(row.conditions[conditions[0]]),
            *_price(row),
        )
        for row in rows
    )
    return [Sheet(title, columns, tuple(lines))]


def of_kinds(rows: Sequence[KindRow]) -> list[Sheet]:
    """Kinds of photo: protected, unprotected in brackets."""
    names = tuple(rows[0].ours) if rows else ()
    lines = (
        (row.kind, row.condition, *(_beside(row.ours, row.none, name) for name in names), percents(row.mean_ours))
        for row in rows
    )
    title = f"Kinds of photo: protection in percent at FAR {RATES}, unprotected in brackets"
    return [Sheet(title, ("photo", "condition", *names, "mean unseen"), tuple(lines))]


def _condition(rows: Sequence[Row], condition: str) -> Sheet:
    names = list(rows[0].conditions[condition].recognisers)
    columns = ("method", *names, "mean unseen", "mean trained", "rank-1 unseen", "PSNR dB", "SSIM", "ms a face")
    title = f"{TITLES.get(condition, condition)}: protection in percent at FAR {RATES}"
    return Sheet(title, columns, tuple(_crop_row(row, row.conditions[condition], names) for row in rows))


def _crop_row(row: Row, seen: Seen, names: Sequence[str]) -> tuple[str, ...]:
    verdicts = [percents([rate.percent for rate in seen.recognisers[name].protection]) for name in names]
    return (row.method, *verdicts, _mean(seen.unseen), _mean(seen.trained), _rank1(seen), *_price(row))


def _rank1(seen: Seen) -> str:
    return f"{seen.unseen.rank1:.0f}" if seen.unseen else "-"


def _price(row: Row) -> tuple[str, str, str]:
    """PSNR, SSIM and milliseconds a face."""
    psnr = "-" if row.psnr_db is None else f"{row.psnr_db:.1f}"
    return psnr, f"{row.ssim:.3f}", f"{row.timing.minimum_ms:.0f}" if row.timing else "-"


def _beside(protected: Mapping[str, Sequence[float]], clean: Mapping[str, Sequence[float]], name: str) -> str:
    return f"{percents(protected[name])} ({percents(clean[name])})" if name in protected else "-"


def _mean(mean: Mean | None) -> str:
    return percents(mean.protection) if mean else "-"


def percents(values: Sequence[float]) -> str:
    """Return a rate for each false accept rate."""
    return " / ".join(f"{value:.0f}" for value in values) or "-"
