"""Load on `apf serve` beside a working worker: `python -m tests.benchmarks.bench_api [--seconds 20] [--statuses 200]`.

Requests come at their own pace, however long answers take, from this process: so many questions for the status of one
of a hundred batches a second, and so many submissions of an upload. A worker with a filter that only takes its time
does what is submitted. The server is a process of its own; photos, outputs and ledgers lie in folders. Latencies are
from the moment at which a request was due; `cpu_ms` is the server's processor time for each request.
"""

from __future__ import annotations

import argparse
import logging
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles

import psutil

from tests.benchmarks.processes import running_redis, unwind_when_ended
from tests.benchmarks.record import record, table
from tests.producer.server.platform import Answer, Api, Platform, end, platform

#: Batches whose status is asked for, and threads that ask.
BATCHES, THREADS = 100, 64


@dataclass
class Kind:
    """Requests of one kind, and how they went."""

    name: str
    per_s: float
    ask: Callable[[], Answer]
    expected: int
    seconds: list[float] = field(default_factory=list)
    failed: int = 0

    def run(self, due: float) -> None:
        """Ask once; the latency counts from when it was due."""
        time.sleep(max(0.0, due - time.monotonic()))
        answer = self.ask()
        self.seconds.append(time.monotonic() - due)
        self.failed += answer.status != self.expected

    def row(self, seconds: float) -> dict[str, object]:
        cuts = quantiles(self.seconds, n=100, method="inclusive")
        return {
            "requests": self.name, "asked_per_s": self.per_s, "answered_per_s": len(self.seconds) / seconds,
            "p50_ms": 1000 * cuts[49], "p95_ms": 1000 * cuts[94], "p99_ms": 1000 * cuts[98], "failed": self.failed,
        }  # fmt: skip


def load(kinds: Sequence[Kind], seconds: float) -> float:
    """Ask all of it; returns how long it took until the last answer."""
    start = time.monotonic() + 0.5
    with ThreadPoolExecutor(THREADS) as pool:
        due = sorted(
            ((start + number / kind.per_s, kind) for kind in kinds for number in range(int(seconds * kind.per_s))),
            key=lambda one: one[0],
        )
        asked: list[Future[None]] = [pool.submit(kind.run, at) for at, kind in due]
        for one in asked:
            one.result()
    return time.monotonic() - start


def measured(place: Platform, asked: argparse.Namespace) -> list[dict[str, object]]:
    token = place.token("bench", scopes=["read", "submit"])
    process, api = place.process()
    try:
        return _measured(place, api.with_token(token), psutil.Process(process.pid), asked)
    finally:
        end(process)


def _measured(place: Platform, api: Api, server: psutil.Process, asked: argparse.Namespace) -> list[dict[str, object]]:
    names = sorted(place.world.photos)
    body = {"source": place.source, "destination": place.destination, "recipe": "light"}

    def submit() -> Answer:
        return api("POST", "/v1/batches", {**body, "photos": [random.choice(names)]})

    batches = [submit().json["batch"] for _ in range(BATCHES)]
    kinds = [Kind("status", asked.statuses, lambda: api("GET", f"/v1/batches/{random.choice(batches)}"), 200)]
    if asked.submissions:
        kinds.append(Kind("submission", asked.submissions, submit, 202))
    before = sum(server.cpu_times()[:2])
    took = load(kinds, asked.seconds)
    used, count = sum(server.cpu_times()[:2]) - before, sum(len(kind.seconds) for kind in kinds)
    memory = server.memory_info().rss / 2**20
    return [{**kind.row(took), "cpu_ms": 1000 * used / count, "server_mb": memory} for kind in kinds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--statuses", type=float, default=200, help="a second")
    parser.add_argument("--submissions", type=float, default=20, help="a second")
    parser.add_argument("--photo-seconds", default="0.05", help="what the worker takes for a photo")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    unwind_when_ended()
    with tempfile.TemporaryDirectory() as folder, running_redis(Path(folder) / "redis") as redis:
        (Path(folder) / "place").mkdir()
        with platform(Path(folder) / "place", redis, 200, CHEAP_SECONDS=asked.photo_seconds) as place:
            place.world.start_worker()
            rows = measured(place, asked)
    print(table(rows))
    record("api", {"rows": rows})


if __name__ == "__main__":
    main()
