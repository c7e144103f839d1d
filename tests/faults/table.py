"""The table of docs/faults.md: faults, moments, runs and seconds to recover, and the same faults on a plain Celery job.

APF_FAULTS_CSV=faults.csv make soak        appends a row for each run
python -m tests.faults.table faults.csv    prints the table
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median

Numbers = tuple[float, ...]


MOMENTS = ("idle", "planning", "mid-shard", "reporting")


def main(path: Path) -> None:
    found = rows(path)
    moments = [moment for moment in MOMENTS if any(moment in runs for runs in found.values())]
    print(
        "| fault | runs | lost | doubled or wrong | seconds to recover:", " | ".join(moments), "| a plain job loses |"
    )
    print("|---|---:|---:|---:|" + "---:|" * len(moments) + "---|")
    for fault, runs in found.items():
        ours = [numbers for moment in moments for numbers in runs.get(moment, [])]
        if not ours:
            continue  # the plain job's calm run
        seconds = [f"{median(s for s, *_ in runs[moment]):.0f}" if moment in runs else "" for moment in moments]
        lost, wrong = (f"{sum(numbers[n] for numbers in ours):.0f}" for n in (1, 2))
        theirs = said(runs["plain"][-1]) if "plain" in runs else ""
        print("|", " | ".join([fault, str(len(ours)), lost, wrong, *seconds, theirs]), "|")


def said(numbers: Numbers) -> str:
    """`2 of 40`, or `5 of 40, 3 of them an hour late`."""
    photos, missing, later = (round(number) for number in numbers)
    return f"{missing} of {photos}" + (f", {later} of them an hour late" if later else "")


def rows(path: Path) -> dict[str, dict[str, list[Numbers]]]:
    """By fault and moment: seconds, lost, doubled or wrong; of a plain job: photos, missing, coming later."""
    found: dict[str, dict[str, list[Numbers]]] = defaultdict(lambda: defaultdict(list))
    with path.open(newline="") as file:
        for fault, moment, *numbers in csv.reader(file):
            found[fault][moment].append(tuple(float(number) for number in numbers))
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
