"""The README's table: faults, moments, runs and seconds to recover, and the same faults on a plain Celery job.

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


def main(path: Path) -> None:
    found = rows(path)
    plain = {fault: numbers[-1] for (fault, moment), numbers in found.items() if moment == "plain"}
    print("| fault | moment | runs | photos lost | doubled or wrong | seconds to recover | lost by a plain job |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for (fault, moment), runs in found.items():
        if moment == "plain":
            continue
        seconds, lost, wrong = zip(*runs, strict=True)
        theirs = said(plain[fault]) if fault in plain and moment == "mid-shard" else ""
        cells = (fault, moment, len(runs), f"{sum(lost):.0f}", f"{sum(wrong):.0f}", f"{median(seconds):.0f}", theirs)
        print("|", " | ".join(map(str, cells)), "|")


def said(numbers: Numbers) -> str:
    """`2 of 40`, or `5 of 40, 3 of them an hour late`."""
    photos, missing, later = (round(number) for number in numbers)
    return f"{missing} of {photos}" + (f", {later} of them an hour late" if later else "")


def rows(path: Path) -> dict[tuple[str, str], list[Numbers]]:
    """By fault and moment: seconds, lost, doubled or wrong; of a plain job: photos, missing, coming later."""
    found: dict[tuple[str, str], list[Numbers]] = defaultdict(list)
    with path.open(newline="") as file:
        for fault, moment, *numbers in csv.reader(file):
            found[fault, moment].append(tuple(float(number) for number in numbers))
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
