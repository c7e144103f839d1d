"""What every benchmark ends with: its table as Markdown, and its figures as one line of JSON that is kept.

A line of `bench-history/NAME.jsonl` says what was measured, when, of which commit and on which machine, so that figures
of different days are never compared without one seeing that. To compare two commits use `paired.py`.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HISTORY = ROOT / "bench-history"
#: Where recognisers are looked for that are no part of this repository; as in the tests.
MODELS = Path(os.environ.get("APF_SHARED") or ROOT.parent / "shared") / "face_models"


def record(name: str, figures: Mapping[str, object], *, history: Path | None = None) -> None:
    """Print one JSON object as stdout's next line, and append it to `NAME.jsonl` in the history folder.

    Call it last: the last line is what `paired.py` reads. `figures` may nest; a name ends with its unit (`_s`, `_ms`,
    `_mb`, `_per_s`). Without a `history` folder it is `bench-history` in the repository, which git ignores.
    """
    commit = _git("rev-parse", "HEAD")
    entry = {
        "name": name,
        "commit": commit,
        "dirty": bool(_git("status", "--porcelain")) if commit else None,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "python": platform.python_version(),
        "figures": figures,
    }
    line = json.dumps(entry)
    folder = history or HISTORY
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.jsonl").open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
    print(line, flush=True)


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Markdown, one line a row, with the columns of all rows in the order in which they first come.

    Floats are given three digits; None, and what a row lacks, are empty cells.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    numeric = {c for c in columns if all(isinstance(row.get(c), int | float | None) for row in rows)}
    lines = [columns, ["---:" if column in numeric else "---" for column in columns]]
    lines += [[_cell(row.get(column)) for column in columns] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine() -> dict[str, object]:
    """The processor, its cores that this process may use, the memory, and the GPU where there is one."""
    return {"processor": _processor(), "cores": cores(), "memory_gb": _memory_gb(), "gpu": _gpu()}


def cores() -> int:
    """How many cores this process may use: fewer than the machine has, in a container or under taskset."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")
    return str(value).replace("|", "\\|")


def _git(*arguments: str) -> str | None:
    """What git says of this tree; None where there is no git or no repository."""
    try:
        ended = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return ended.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError):
        return None


def _gpu() -> str | None:
    """The first GPU's name, asked of its driver: many a benchmark must not import torch."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return ended.stdout.strip().partition("\n")[0] or None
