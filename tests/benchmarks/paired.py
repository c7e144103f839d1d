"""A benchmark at the working tree and at another commit, in turn.

    python -m tests.benchmarks.paired bench_steps [ITS OPTIONS] --against HEAD~1 [--runs 5]

Machines get slower and faster by the minute. So the two run A B A B, each pair gives one ratio for each figure (the
working tree's divided by the commit's), and what is printed is the pairs' median with their smallest and largest. The
commit is checked out into a temporary worktree and run by the same Python, with PYTHONPATH set to it. A benchmark that
the commit lacks is taken from the working tree; with `--same-benchmark` one that has changed is, too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.record import ROOT, record, table

BENCHMARKS = Path("tests/benchmarks")
THIRD_PARTY = Path("apf/third_party")

Figures = Mapping[str, float]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", help="such as bench_steps; further options are handed to it")
    parser.add_argument("--against", required=True, metavar="COMMIT")
    parser.add_argument("--runs", type=int, default=5, help="pairs")
    parser.add_argument("--same-benchmark", action="store_true", help="the working tree's benchmark for both")
    asked, options = parser.parse_known_args(arguments)
    command = [asked.benchmark.removesuffix(".py"), *options]
    with checked_out(asked.against, same_benchmark=asked.same_benchmark) as other:
        pairs = []
        for number in range(asked.runs):
            print(f"pair {number + 1} of {asked.runs}", file=sys.stderr)
            pairs.append((measured(ROOT, command), measured(other, command)))
    rows = ratios(pairs)
    if not rows:
        raise SystemExit(f"{' '.join(command)} printed no number that both have")
    print(f"Working tree / {asked.against}, {asked.runs} pairs:\n\n{table(rows)}\n")
    record(f"paired_{command[0]}", {"command": command, "against": asked.against, "ratios": rows})


def ratios(pairs: Sequence[tuple[Figures, Figures]]) -> list[dict[str, object]]:
    """For each figure that all runs have: both medians, and the ratios pair by pair; zeros have none."""
    named = (
        [name for name in pairs[0][0] if all(name in figures for pair in pairs for figures in pair)] if pairs else []
    )
    rows: list[dict[str, object]] = []
    for name in named:
        ours, theirs = ([pair[side][name] for pair in pairs] for side in (0, 1))
        if not all(theirs):
            continue
        each = [a / b for a, b in zip(ours, theirs, strict=True)]
        medians = {"ours": statistics.median(ours), "theirs": statistics.median(theirs)}
        spread = {"ratio, min": min(each), "ratio, median": statistics.median(each), "ratio, max": max(each)}
        rows.append({"figure": name, **medians, **spread})
    return rows


def numbers(figures: object, name: str = "") -> dict[str, float]:
    """The numbers in nested figures by their dotted names; texts, booleans and nothing are left out."""
    if isinstance(figures, int | float) and not isinstance(figures, bool):
        return {name: float(figures)}
    if isinstance(figures, Mapping):
        inner = [(str(key), value) for key, value in figures.items()]
    elif isinstance(figures, list):
        inner = [(str(number), value) for number, value in enumerate(figures)]
    else:
        return {}
    return {
        dotted: number
        for key, value in inner
        for dotted, number in numbers(value, f"{name}.{key}" if name else key).items()
    }


def measured(tree: Path, command: Sequence[str]) -> dict[str, float]:
    """The figures that a benchmark records when it runs on the code of a tree."""
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    module = f"{'.'.join(BENCHMARKS.parts)}.{command[0]}"
    arguments = [sys.executable, "-m", module, *command[1:]]
    ended = subprocess.run(arguments, cwd=tree, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"{' '.join(command)} in {tree} ended with status {ended.returncode}")
    try:
        return numbers(json.loads(ended.stdout.splitlines()[-1])["figures"])
    except (IndexError, ValueError, TypeError, KeyError) as error:
        raise SystemExit(
            f"{' '.join(command)} in {tree} printed no JSON at its end; if it is older than that, use --same-benchmark"
        ) from error


@contextmanager
def checked_out(commit: str, *, same_benchmark: bool = False) -> Iterator[Path]:
    """A temporary worktree of a commit, with the benchmarks that it lacks."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        git = ["git", "-C", str(ROOT), "worktree"]
        add = [*git, "add", "--detach", str(tree), commit]
        ended = subprocess.run(add, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise SystemExit(f"no worktree of {commit}: {ended.stderr.strip()}")
        try:
            lend_benchmarks(ROOT / BENCHMARKS, tree / BENCHMARKS, overwrite=same_benchmark)
            # In no commit: set-up brings them (infra/build_hook.py).
            if (ROOT / THIRD_PARTY).exists() and (tree / THIRD_PARTY).parent.exists():
                (tree / THIRD_PARTY).symlink_to(ROOT / THIRD_PARTY)
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True, capture_output=True)


def lend_benchmarks(source: Path, destination: Path, *, overwrite: bool) -> None:
    destination.mkdir(parents=True, exist_ok=True)
    for file in source.glob("*.py"):
        if overwrite or not (destination / file.name).exists():
            shutil.copy2(file, destination / file.name)


if __name__ == "__main__":
    main()
