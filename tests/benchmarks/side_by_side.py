"""A part of the work alone, on every core at the same time: what the whole machine can do of it, and not one core.

Cores share memory and cache, and one that works alone runs at a higher clock. So there is a process for each core, kept
on it; all begin each part together, and each call is timed by itself.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from apf.recipe import DEFAULT_RECIPE

#: Core seconds for one photo (or face), by part and way; one of each process and repetition.
Times = dict[str, dict[str, list[float]]]

#: A part is called as often as fills this, lest the clock's own steps and the start count.
ENOUGH_S = 0.05
#: Nobody waits longer for the others.
PATIENCE_S = 600


class SideBySide:
    """One process for each core. Close it: it is `contextlib.closing`'s."""

    def __init__(
        self, cores: Sequence[int], clock: Callable[[], float] = time.perf_counter, recipe: str = DEFAULT_RECIPE
    ) -> None:
        """Starts the processes, which load the recipe's filter meanwhile; `ready` waits for that.

        Args:
            cores: the numbers that the system has for them.
            clock: `time.process_time` leaves out what other programs take.
        """
        context = get_context("spawn")
        barrier = self._barrier = context.Barrier(len(cores))  # it must live as long as they may start
        self._pipes: list[Any] = []
        self._processes = []
        for core in cores:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, barrier, core, clock, recipe), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def ready(self) -> None:
        self._answers()

    def photo(self, data: bytes, faces: int, runs: int) -> Times:
        """Every part of a photo (`tests.benchmarks.parts`); those of faces stand for all, as measured on a few."""
        return self._ask("photo", data, faces, runs)

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(10)
            process.terminate()

    def _ask(self, *request: object) -> Times:
        for pipe in self._pipes:
            pipe.send(request)
        return merged(self._answers())

    def _answers(self) -> list[Any]:
        try:
            return [pipe.recv() for pipe in self._pipes]
        except EOFError:
            raise SystemExit("a process ended: its reason stands above") from None


def merged(answers: Sequence[Times]) -> Times:
    """The times of all processes, those of each part and way in one list."""
    found: Times = {}
    for answer in answers:
        for part, ways in answer.items():
            for way, seconds in ways.items():
                found.setdefault(part, {}).setdefault(way, []).extend(seconds)
    return found


def _serve(pipe: Connection, barrier: Barrier, core: int, clock: Callable[[], float], recipe: str) -> None:
    """One process: keep to the core, load, and answer until the other end is closed."""
    _keep_to({core})
    server = _Server(barrier, clock, recipe)
    pipe.send("ready")
    while True:
        try:
            method, *arguments = pipe.recv()
        except EOFError:
            return
        pipe.send(getattr(server, method)(*arguments))


class _Server:
    def __init__(self, barrier: Barrier, clock: Callable[[], float], recipe: str) -> None:
        import cv2  # noqa: PLC0415  the parent needs none of these

        from apf.filters.load import load_filter  # noqa: PLC0415

        cv2.setNumThreads(1)
        self._barrier, self._clock = barrier, clock
        self._filter = load_filter(recipe, device="cpu")
        _ = self._filter.detector, self._filter.guides

    def photo(self, data: bytes, faces: int, runs: int) -> Times:
        from tests.benchmarks.parts import MOST_FACES, Sample, of_faces, parts  # noqa: PLC0415

        sample, times = Sample.of(data, self._filter, faces), Times()
        with tempfile.TemporaryDirectory() as folder:
            for part, ways in parts(sample, self._filter, Path(folder)).items():
                times[part] = {way: self._timed(work, runs) for way, work in ways.items()}
        share = faces / min(faces, MOST_FACES) if faces else 0.0
        for part, work in of_faces(sample, self._filter).items():
            times[part] = {"apf": [share * one for one in self._timed(work, runs)]}
        return times

    def _timed(self, work: Callable[[], object], runs: int) -> list[float]:
        """Seconds of one call, in each of so many runs that all processes begin together."""
        started = self._clock()
        work()
        calls = max(1, min(1000, math.ceil(ENOUGH_S / max(self._clock() - started, 1e-6))))
        found = []
        for _ in range(runs):
            self._barrier.wait(PATIENCE_S)
            started = self._clock()
            for _ in range(calls):
                work()
            found.append((self._clock() - started) / calls)
        return found


def _keep_to(cores: set[int]) -> None:
    """All threads of this process to these cores, where the system can do that."""
    if not hasattr(os, "sched_setaffinity"):
        return
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)
