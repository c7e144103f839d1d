"""What a large batch costs its producer: `python -m tests.benchmarks.bench_planning [--keys 1000000]`.

A listing that is made up is planned by the code of `apf protect`, into a ledger in a folder and messages in a real
Redis. Then the batch's status is asked for, and it is resumed: with no shard reported, and with all of them. Prints how
long each took, the requests to the store, and the memory of Redis and of the producer.

`--latency-ms` makes each request to the ledger's store so much longer, as if it were S3. `--simulate` keeps no plans:
their bodies are counted and thrown away, so that ten million keys need no disk; nothing is asked of the batch then.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import redis

from tests.benchmarks.counted import counted
from tests.benchmarks.listing import FakeListing, key_of
from tests.benchmarks.record import record, table
from tests.conftest import RedisServer, _free_ports, _redis_binary
from workers.batches.create import BatchOptions, create_batch
from workers.batches.rescue import plan_and_send, resume
from workers.broker.app import make_app
from workers.broker.client import Broker, queue_snapshot
from workers.config.settings import Settings
from workers.core.records import Batch, Outcome, PhotoReport, ShardReport
from workers.ledger.batch_ledger import Ledger
from workers.status.batch_status import BatchMonitor
from workers.store.local import FileStore

MIB = 2**20


@dataclass
class Step:
    """What one step took."""

    name: str
    wall_s: float = 0.0
    cpu_s: float = 0.0
    requests: dict[str, int] = field(default_factory=dict)

    def row(self) -> dict[str, object]:
        said = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.requests.items()))
        return {"step": self.name, "wall, s": f"{self.wall_s:.1f}", "processor, s": f"{self.cpu_s:.1f}", "store": said}


@dataclass
class Memory:
    """The producer's resident memory after each stretch of shards, in MiB, by the pages that were listed."""

    samples: list[tuple[int, float]] = field(default_factory=list)

    def sample(self, pages: int) -> None:
        self.samples.append((pages, psutil.Process().memory_info().rss / MIB))

    def growth_mib(self) -> float:
        """From a tenth of the listing to the highest after it: 0 is flat."""
        last = self.samples[-1][0]
        late = [mib for pages, mib in self.samples if pages >= last / 10]
        return max(late) - late[0]


class Bench:
    """One batch over a made-up listing."""

    def __init__(self, folder: Path, server: RedisServer, keys: int, latency_s: float) -> None:
        (folder / "in").mkdir()
        self.keys, self.latency_s, self.server = keys, latency_s, server
        self.settings = Settings(
            broker_url=server.url, allowed_urls=folder.as_uri(), max_batch_photos=max(keys, 10_000_000)
        )
        self.sender = Broker(make_app(self.settings))
        source, destination = (folder / "in").as_uri(), (folder / "out").as_uri()
        self.listing = FakeListing(keys, source)
        self.ledger, batch = create_batch(source, destination, BatchOptions(), self.settings)
        self.batch_id = batch.id
        self.memory = Memory()
        self.steps: list[Step] = []

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        step = Step(name)
        wall_s, cpu_s = time.monotonic(), time.process_time()
        with counted(FileStore, latency_s=self.latency_s) as requests:
            yield
        step.wall_s, step.cpu_s = time.monotonic() - wall_s, time.process_time() - cpu_s
        step.requests = dict(requests)
        self.steps.append(step)

    def plan(self) -> Batch:
        def enough() -> bool:
            self.memory.sample(self.listing.pages)
            return False

        with mock.patch("workers.batches.rescue.open_store", return_value=self.listing), self.step("plan and send"):
            planned = plan_and_send(self.ledger, self.batch_id, self.sender, self.settings, enough)
        self.memory.sample(self.listing.pages)
        return planned

    def ask(self, when: str) -> None:
        with self.step(f"status, {when}"):
            BatchMonitor(self.ledger, self.batch_id).poll(running=True)
        with self.step(f"status again, {when}"):
            BatchMonitor(self.ledger, self.batch_id).poll(running=True)
        with self.step(f"resume, {when}"):
            resume(self.ledger, self.batch_id, self.sender, self.settings)

    def queue(self) -> dict[str, int]:
        return {name: count for name, count in queue_snapshot(make_app(self.settings)).queued.items() if count}

    def redis_mib(self) -> float:
        with closing(redis.Redis(port=self.server.port)) as client:
            return float(client.info("memory")["used_memory"]) / MIB


def report_all(ledger: Ledger, batch: Batch) -> None:
    """As if workers had done it: every hundredth photo without a face, one in ten thousand failed."""
    for shard in range(batch.shards):
        photos = [_reported(number) for number in range(shard * 128, min((shard + 1) * 128, batch.photos))]
        report = ShardReport(
            shard=shard,
            photos=tuple(photos),
            stage_seconds={"read": 1.0, "decode": 5.0, "gradient": 20.0, "encode": 6.0, "write": 1.0},
            wall_seconds=40.0,
            worker="host:1",
            finished_at="2026-01-01T00:00:00+00:00",
            peak_memory_bytes=10**9,
        )
        ledger.write_report(batch.id, report)


def _reported(number: int) -> PhotoReport:
    facts: dict[str, Any] = {"key": key_of(number), "etag": f"{number:032x}"}
    if number % 10_000 == 9_999:
        return PhotoReport(**facts, outcome=Outcome.failed, reason="the picture ends too early: save it again")
    faces = int(number % 100 != 99)
    outcome = Outcome.protected if faces else Outcome.no_face
    return PhotoReport(
        **facts, outcome=outcome, faces=faces, megapixels=1.0, bytes_in=350_000, bytes_out=355_000, attempts=1
    )


@contextmanager
def without_plans() -> Iterator[None]:
    """The ledger's plans are written nowhere."""
    write: Callable[..., Any] = FileStore.put

    def put(self: FileStore, key: str, data: bytes, **options: Any) -> Any:
        return None if "/plan/" in key else write(self, key, data, **options)

    with mock.patch.object(FileStore, "put", put):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--simulate", action="store_true")
    asked = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "redis").mkdir()
        server = RedisServer(_redis_binary(), folder / "redis", _free_ports([0]))
        server.start()
        stack.callback(server.kill)
        if asked.simulate:
            stack.enter_context(without_plans())
        run(Bench(folder, server, asked.keys, asked.latency_ms / 1000), simulate=asked.simulate)


def run(bench: Bench, *, simulate: bool) -> None:
    before_mib = bench.redis_mib()
    batch = bench.plan()
    redis_mib = bench.redis_mib() - before_mib
    messages = sum(bench.queue().values())
    if not simulate:
        bench.ask("none reported")
        report_all(bench.ledger, batch)
        bench.ask("all reported")
    plan = bench.steps[0]
    figures: dict[str, object] = {
        "keys": batch.photos,
        "shards": batch.shards,
        "messages": messages,
        "keys_per_s_of_processor": round(batch.photos / plan.cpu_s),
        "keys_per_s": round(batch.photos / plan.wall_s),
        "redis_mib": round(redis_mib, 1),
        "producer_mib": round(bench.memory.samples[-1][1], 1),
        "producer_growth_mib": round(bench.memory.growth_mib(), 1),
        "producer_peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "store_latency_ms": bench.latency_s * 1000,
        "simulated": simulate,
    }
    print(table([step.row() for step in bench.steps]))
    print("\n" + table([figures]))
    steps = {s.name: {"wall_s": s.wall_s, "cpu_s": s.cpu_s, "requests": s.requests} for s in bench.steps}
    record("planning", {**figures, "steps": steps})


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
