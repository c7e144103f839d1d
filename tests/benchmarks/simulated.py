"""A filter that takes its time and no core, loaded by `tests.benchmarks.celeryapp`: as if each worker had a GPU.

A file begins with the milliseconds that it takes; what comes out is as large.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import workers.execution.run_shard
import workers.tasks
from apf.runtime.stage_clock import StageClock
from workers.execution.engine import Cost

MEGAPIXELS = 12.0
#: As `workers.execution.engine.BYTES_PER_PIXEL`: so many files may be in flight as photos of this size.
HELD_BYTES = int(12 * MEGAPIXELS * 1e6)


def a_file(milliseconds: int, number: int, size: int) -> bytes:
    """A file of `size` bytes that takes so long."""
    return f"{milliseconds} {number} ".encode().ljust(size, b"x")


@dataclass(frozen=True)
class Done:
    data: bytes
    outcome: str = "protected"
    faces: tuple[int, ...] = (1,)


class SimulatedEngine:
    #: One GPU.
    lanes = 1

    def estimate_cost(self, data: bytes) -> Cost:
        return Cost(content_type="image/jpeg", held=HELD_BYTES, megapixels=MEGAPIXELS, work=MEGAPIXELS)

    def decode(self, data: bytes) -> bytes:
        return data

    def protect(self, files: Sequence[bytes], clock: StageClock) -> list[Done]:
        time.sleep(sum(int(data.split(b" ", 1)[0]) for data in files) / 1000)
        return [Done(data) for data in files]

    def encode(self, result: Done) -> bytes:
        return result.data


def install() -> None:
    """From now on this process's task protects with the simulated filter."""
    engine = SimulatedEngine()
    workers.tasks.run_shard = partial(workers.execution.run_shard.run_shard, load=lambda *_: engine)
