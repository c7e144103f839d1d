"""The report as Markdown and as JSON."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence

import torch

from apf.research.evaluate.leakage.bench import Bench
from apf.research.evaluate.leakage.rows import Kept, Report, Row
from apf.research.evaluate.report import processor, table_line

HEAD = (
    "sent",
    "bits a pixel",
    "protected as it is",
    "after half, JPEG 75",
    "PSNR dB",
    "decoder SSIM",
    "decoder PSNR",
    "decoded: other photo",
    "decoded: same photo",
    "linker: gradients",
    "AUC",
    "linker: photo",
    "AUC",
    "untrained: other photo",
    "same photo",
)


def report(bench: Bench) -> Report:
    """All that was asked for."""
    learnt, measured = bench.known.faces.people, bench.who.sent.faces.people
    return Report(
        command=shlex.join(["python", "-m", "apf.research.evaluate.leakage", *sys.argv[1:]]),
        machine=f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        learnt=(len(learnt), len(set(learnt))),
        measured=(len(measured), len(set(measured))),
        judges=tuple(target.name for target in bench.strangers),
        rows=tuple(bench.rows()),
        alone=bench.alone(),
        ceiling=bench.ceiling(),
        clipped=tuple(bench.clipped()),
    )


def as_markdown(found: Report) -> str:
    """Return the tables."""
    lines = [
        f"Attackers learnt from {found.learnt[0]} photos of {found.learnt[1]} people and are measured on "
        f"{found.measured[0]} photos of {found.measured[1]} others; what is trained is a lower bound of what is given "
        f"away. Judges: {', '.join(found.judges)}. {found.machine}. Command: `{found.command}`",
        "",
        *_table(HEAD, [*map(_row, found.rows), *(_alone(*one) for one in found.alone.items()), *_ceiling(found)]),
        "",
        "Protected: percent not matched at FAR 1e-2 / 1e-3. Decoded, linker, untrained: percent matched at FAR 1e-2.",
        "Guessing reaches 1, and an AUC of 0.5. Of the photo itself, the linker's columns are what the probe and what",
        "the recognisers that linkers imitate find by clean photos.",
        "",
        "**What clipped noise shows of pixels within epsilon of black or white** (AUC of the mean noise around "
        "each; noise there: in units of epsilon, away from the end)",
        "",
        *_table(("noise", "faces", "end", "pixels there %", "AUC", "noise there"), map(list, _clipped(found))),
    ]
    return "\n".join(lines) + "\n"


def _row(row: Row) -> list[str]:
    told = row.leaks
    linked = (told.gradients, told.photos)
    return [
        row.name,
        str(row.bits_a_pixel),
        *_kept(row.protection),
        f"{told.decoder.ssim:.2f}",
        _number(told.decoder.psnr_db),
        f"{told.decoder.other_photo:.0f}",
        f"{told.decoder.same_photo:.0f}",
        *(text for one in linked for text in (f"{one.tar_percent:.0f}", f"{one.auc:.3f}")),
        f"{told.other_gradient.tar_percent:.0f}",
        f"{told.same_gradient.tar_percent:.0f}",
    ]


def _alone(name: str, kept: Kept) -> list[str]:
    return [name, "0", *_kept(kept), *[""] * (len(HEAD) - 5)]


def _ceiling(found: Report) -> list[list[str]]:
    """Return the clean photo in the gradient's place, and the mean face in the decoded one's."""
    rows = []
    for name, picture in (("the photo itself", found.ceiling.photo), ("the mean face", found.ceiling.mean_face)):
        shown = [f"{picture.ssim:.2f}", _number(picture.psnr_db), f"{picture.other_photo:.0f}"]
        rows.append([name, *[""] * 4, *shown, f"{picture.same_photo:.0f}", *[""] * 6])
    probe, imitated = found.ceiling.probe, found.ceiling.imitated
    told = [f"{probe.tar_percent:.0f}", f"{probe.auc:.3f}", f"{imitated.tar_percent:.0f}", f"{imitated.auc:.3f}"]
    rows[0][9:13] = told
    return rows


def _clipped(found: Report) -> Iterable[tuple[str, ...]]:
    for one in found.clipped:
        yield (
            one.noise,
            one.kind,
            one.end,
            f"{one.share:.1f}",
            f"{one.auc:.3f}",
            "" if one.away is None else f"{one.away:+.2f}",
        )


def _kept(kept: Kept) -> list[str]:
    rates = (" / ".join(f"{rate:.0f}" for rate in seen) for seen in (kept.raw, kept.both))
    return [*rates, _number(kept.psnr_db)]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    rule = ("---", *("---:" for _ in head[1:]))
    return [table_line(row) for row in (head, rule, *rows)]
