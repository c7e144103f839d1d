"""A filter for workers under test that is cheap and deterministic, loaded by `tests.faults.celeryapp`.

A photo is text. It begins with what is to become of it: `face`, `empty` (no face), `corrupt`, or `deadly`, which kills
the process that protects it. To import this module is to install it: the tests' own process must not.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import workers.callbacks.retry_policy
import workers.execution.run_shard
import workers.tasks
from apf.errors import CorruptPhoto
from apf.runtime.stage_clock import StageClock
from tests.faults import DEADLY_REPORT, FASTER, REPORT_SECONDS, REPORTING, SECONDS, cheap_output
from workers.core.records import ShardReport
from workers.execution.engine import Cost
from workers.ledger.batch_ledger import Ledger


@dataclass(frozen=True)
class Protected:
    data: bytes
    outcome: str
    faces: tuple[int, ...]


class CheapEngine:
    lanes = 1

    def estimate_cost(self, data: bytes) -> Cost:
        if data.startswith(b"corrupt"):
            raise CorruptPhoto("the picture ends too early: save it again")
        return Cost(content_type="image/jpeg", held=12_000, megapixels=0.001, work=0.001)

    def decode(self, data: bytes) -> Any:
        return data

    def protect(self, photos: Sequence[Any], clock: StageClock) -> list[Any]:
        found = []
        for data in photos:
            time.sleep(float(os.environ.get(SECONDS, "0")))
            if data.startswith(b"deadly"):
                os.kill(os.getpid(), signal.SIGKILL)
            empty = data.startswith(b"empty")
            found.append(Protected(data, "no_face" if empty else "protected", () if empty else (1,)))
        return found

    def encode(self, protected: Any) -> bytes:
        return cheap_output(protected.data)


def install() -> None:
    """From now on this process's task protects with the cheap filter."""
    engine = CheapEngine()
    workers.tasks.run_shard = partial(workers.execution.run_shard.run_shard, load=lambda *_: engine)
    write = Ledger.write_report

    def slow(ledger: Ledger, batch_id: str, report: ShardReport) -> None:
        if REPORTING in os.environ:
            Path(os.environ[REPORTING]).touch()
        time.sleep(float(os.environ.get(REPORT_SECONDS, "0")))
        write(ledger, batch_id, report)
        deadly = Path(os.environ.get(DEADLY_REPORT, os.devnull))
        if deadly.is_file():
            deadly.unlink()
            os.kill(os.getpid(), signal.SIGKILL)

    Ledger.write_report = slow  # type: ignore[method-assign]
    faster = float(os.environ.get(FASTER, "1"))
    back_off = workers.tasks._back_off_s
    workers.tasks._back_off_s = lambda waits: back_off(waits) / faster
    workers.callbacks.retry_policy.FIRST_DELAY_S /= faster


install()
