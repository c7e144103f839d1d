"""Memory of running processes over time, and whether it grows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations

import psutil

from tests.benchmarks.processes import tree

MEBIBYTE = 2**20
#: Of all pairs of samples so many make the slope: an hour has a hundred thousand.
MOST_POINTS = 240


@dataclass
class Curves:
    """Samples of resident memory, by role."""

    started: float = field(default_factory=time.monotonic)
    #: Seconds since the start, and mebibytes by role.
    samples: list[tuple[float, dict[str, float]]] = field(default_factory=list)

    def sample(self, parents: Mapping[str, int], below: Mapping[str, Sequence[str]]) -> None:
        """Adds one.

        Args:
            parents: process ids by role.
            below: of a role, what its children, their children and so on are called; several of a level are summed.
        """
        found: dict[str, float] = {}
        for role, pid in parents.items():
            for level, processes in enumerate(_levels(pid, 1 + len(below.get(role, ())))):
                name = role if level == 0 else below[role][level - 1]
                found[name] = sum(_resident(process) for process in processes) / MEBIBYTE
        self.samples.append((time.monotonic() - self.started, found))

    def curve(self, role: str, *, after: float = 0.0) -> list[tuple[float, float]]:
        """A role's samples, from this share of the run on."""
        begin = after * self.samples[-1][0]
        return [(at, found[role]) for at, found in self.samples if at >= begin and role in found]


def growth(curve: Sequence[tuple[float, float]]) -> float:
    """What a curve gains from its first to its last sample by its slope, in its own unit.

    The slope is the median of those of all pairs of points (Theil and Sen's), which single peaks do not move.
    """
    points = curve[:: max(1, len(curve) // MOST_POINTS)]
    slopes = [(b - a) / (t - s) for (s, a), (t, b) in combinations(points, 2) if t > s]
    return statistics.median(slopes) * (curve[-1][0] - curve[0][0]) if slopes else 0.0


def _levels(pid: int, count: int) -> list[list[psutil.Process]]:
    """A process, its children, their children and so on, `count` levels deep at most."""
    levels = [tree(pid)[:1]]
    while len(levels) < count:
        children: list[psutil.Process] = []
        for process in levels[-1]:
            with suppress(psutil.NoSuchProcess):
                children += process.children()
        levels.append(children)
    return levels


def _resident(process: psutil.Process) -> int:
    with suppress(psutil.NoSuchProcess):
        return int(process.memory_info().rss)
    return 0
