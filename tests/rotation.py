"""A tenth of the long matrices: of tests marked `rotating`, `make test` runs another tenth each day, `make soak` all.

APF_ROTATION says which tenth, 0 to 9; without it, as when one test is run by hand, all run. Each parametrised function
is a matrix; `@pytest.mark.rotating("name")` makes one of all tests and parameters of that name. However short a matrix
is, at least one of it runs every day, and all of it within ten.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

import pytest

TENTHS = 10
#: Read before the tests' own environment takes all such variables away.
CHOSEN = os.environ.get("APF_ROTATION", "")


def register(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "rotating(matrix): one of a long matrix, of which APF_ROTATION=0..9 runs a tenth (tests/rotation.py)"
    )
    if CHOSEN and CHOSEN not in map(str, range(TENTHS)):
        raise pytest.UsageError(f"APF_ROTATION={CHOSEN!r} is no tenth: give 0 to {TENTHS - 1}, or leave it out for all")


def header() -> list[str]:
    if not CHOSEN:
        return []
    return [f"rotation: tenth {CHOSEN} of the long matrices; APF_ROTATION={CHOSEN} runs the same again"]


def matrix(item: pytest.Item) -> str | None:
    """The matrix that a test is of; None where it always runs."""
    mark = item.get_closest_marker("rotating")
    if mark is None:
        return None
    return str(mark.args[0]) if mark.args else item.nodeid.partition("[")[0]


def rotate(items: list[pytest.Item], config: pytest.Config) -> None:
    """Leave out of `items` what is not in the tenth."""
    if not CHOSEN:
        return
    taken = chosen([matrix(item) for item in items], int(CHOSEN))
    config.hook.pytest_deselected(items=[item for item, take in zip(items, taken, strict=True) if not take])
    items[:] = [item for item, take in zip(items, taken, strict=True) if take]


def chosen(matrices: Sequence[str | None], tenth: int) -> list[bool]:
    """Whether each test is to run, by the matrix that it is of."""
    sizes, seen = Counter(matrices), Counter[str | None]()
    taken = []
    for name in matrices:
        of = min(TENTHS, sizes[name])
        taken.append(name is None or seen[name] % of == tenth % of)
        seen[name] += 1
    return taken
