"""`python -m tests.benchmarks.bench_workers`: 1, 2, 4 and 8 workers on one Redis and one store.

Real worker processes, a real Redis, a folder or Swift as the store; a filter that sleeps instead of computing, as if
each worker had a GPU of its own: the cores run out otherwise. Each line tells what share of as many times one worker's
ideal was reached, and what a photo costs each part in processor time: whichever part fills its cores first is where it
stops. Last, what Redis spends on workers that have nothing to do, and what the worker's parts spend on a photo.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import redis

from tests.benchmarks.processes import SIMULATED, await_that, processor_s, running, running_redis, unwind_when_ended
from tests.benchmarks.record import cores, record, table
from tests.benchmarks.simulated import SimulatedEngine, a_file
from tests.conftest import ANY_PLACE, S3_KEY, S3_SECRET, RedisServer, S3Server, running_swift
from tests.workers.fakes import FakeBroker
from workers.batches.create import BatchOptions, create_batch
from workers.batches.rescue import plan_and_send
from workers.broker.app import make_app
from workers.broker.client import Broker
from workers.config.settings import Settings
from workers.core.records import ShardJob
from workers.execution.run_shard import run_shard
from workers.store import open_store

#: By simulated milliseconds a photo, the photos of a shard. A core's, with shards that take about as long as a GPU's; a
#: GPU's, with the default; and none at all: what is left is ours. Then shards for each worker.
SHARD = {300: 16, 20: 128, 0: 128}
SHARDS = 4
#: Of a shard where Swift is the store: its own servers share these cores, and need ten times as much of them.
SWIFT_SHARD = 32
PHOTO_BYTES = 60_000
IDLE_S = 10.0


@dataclass
class Place:
    """A store, a Redis and workers, and which processes are whose."""

    folder: Path
    redis: RedisServer
    #: Of a bucket or folder that holds all there is.
    url: str
    settings: Settings
    variables: Mapping[str, str]
    swift: S3Server | None
    workers: list[int] = field(default_factory=list)

    def spent(self) -> dict[str, float]:
        """Processor seconds so far, by part."""
        with closing(redis.Redis(port=self.redis.port)) as client:
            cpu = client.info("cpu")  # to the microsecond, where the system counts in hundredths
        return {
            "workers": sum(processor_s(pid) for pid in self.workers),
            "redis": float(cpu["used_cpu_user"] + cpu["used_cpu_sys"]),
            "store": sum(processor_s(pid) for pid in _pids(self.swift)),
        }

    def log(self) -> Path:
        return self.folder / "worker.log"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--cost-ms", type=int, nargs="+", default=list(SHARD), choices=list(SHARD))
    parser.add_argument("--store", nargs="+", default=["folder", "swift"], choices=["folder", "swift"])
    parser.add_argument("--shards", type=int, default=SHARDS, help="for each worker")
    asked = parser.parse_args(arguments)
    unwind_when_ended()
    rows: list[dict[str, object]] = []
    idle: dict[str, float] = {}
    parts: list[dict[str, object]] = []
    for store in asked.store:
        if store == "swift" and not _has_swift():
            print("Swift is not here, or needs root: left out\n")
            continue
        with a_place(store) as place, ExitStack() as stack:
            quiet = redis_share(place)
            for count in asked.workers:
                _grow(place, count, stack)
                for cost in asked.cost_ms:
                    rows.append({"store": store, **measured(place, count, cost, asked.shards)})
            idle[store] = (redis_share(place) - quiet) / len(place.workers)
            parts += parts_of(place, store)
    print(f"{table(rows)}\n\n{table(parts)}\n")
    for store, share in idle.items():
        print(f"{store}: Redis spends {1e6 * share:.0f} us a second on each worker that has nothing to do")
    print()
    record("workers", {"rows": rows, "parts": parts, "idle_redis_s_per_worker_s": idle, "cores": cores()})


def measured(place: Place, count: int, cost_ms: int, shards: int) -> dict[str, object]:
    """One batch, from its first message until its last report."""
    shard = min(SHARD[cost_ms], SWIFT_SHARD) if place.swift else SHARD[cost_ms]
    photos = count * shards * shard
    before, jobs, done = prepared(place, f"{count}-{cost_ms}", photos, cost_ms, shard)
    send = Broker(make_app(place.settings)).send
    start, busy = time.perf_counter(), _busy_s()
    for job in jobs:
        send(job)
    await_that(done, 600, f"{photos} photos are done: {place.log().read_text()[-2000:]}", every_s=0.1)
    wall_s = time.perf_counter() - start
    spent = {part: seconds - before[part] for part, seconds in place.spent().items()}
    return {
        "workers": count,
        "ms a photo": cost_ms,
        "photos/s": photos / wall_s,
        "of ideal": f"{100 * photos / wall_s * cost_ms / 1000 / count:.0f} %" if cost_ms else None,
        "worker, ms": 1e3 * spent["workers"] / photos,
        "Redis, us": 1e6 * spent["redis"] / photos,
        "store's server, ms": 1e3 * spent["store"] / photos if place.swift else None,
        "cores busy": f"{100 * (_busy_s() - busy) / wall_s / cores():.0f} %",
    }


def prepared(
    place: Place, name: str, photos: int, cost_ms: int, shard: int
) -> tuple[dict[str, float], list[ShardJob], Callable[[], bool]]:
    """Photos and their batch, planned and not sent: what was spent by then, its messages, and whether it is done."""
    settings = place.settings.model_copy(update={"shard_photos": shard})
    source, destination = f"{place.url}/in-{name}", f"{place.url}/out-{name}"
    store = open_store(source, s3=settings.s3, create=True)
    for number in range(photos):
        store.put(f"{number:06}.jpg", a_file(cost_ms, number, PHOTO_BYTES))
    ledger, batch = create_batch(source, destination, BatchOptions(), settings)
    jobs: list[ShardJob] = []
    plan_and_send(ledger, batch.id, FakeBroker(jobs.append), settings)
    return place.spent(), jobs, lambda: len(ledger.reported_shards(batch.id)) == len(jobs)


def redis_share(place: Place) -> float:
    """Processor seconds that Redis spends in a second in which no shard waits."""
    before = place.spent()["redis"]
    time.sleep(IDLE_S)
    return (place.spent()["redis"] - before) / IDLE_S


def parts_of(place: Place, name: str) -> list[dict[str, object]]:
    """What one photo costs, in this process and without the queue: the store alone, then the shard with its ledger."""
    count = SHARD[0]
    _, jobs, _ = prepared(place, "parts", count, 0, count)
    settings = place.settings
    source = open_store(f"{place.url}/in-parts", s3=settings.s3)
    copies = open_store(f"{place.url}/copies", s3=settings.s3, create=True)
    started = time.process_time()
    for info in source.list():
        if copies.head(info.key) is None:
            copies.put(info.key, source.get(info.key, etag=info.etag).data)
    store_s = time.process_time() - started
    engine = SimulatedEngine()
    started = time.process_time()
    for job in jobs:
        run_shard(job, settings, load=lambda *_: engine)
    shard_s = time.process_time() - started
    return [
        {"store": name, "part of the worker": "head, get and put, in one thread", "ms": 1e3 * store_s / count},
        {"store": name, "part of the worker": "a shard, with threads and ledger", "ms": 1e3 * shard_s / count},
    ]


@contextmanager
def a_place(store: str) -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="apf-workers-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        server = stack.enter_context(running_redis(folder / "redis"))
        swift, url = None, (folder / "store").as_uri()
        variables = {"APF_BROKER_URL": server.url}
        if store == "swift":
            os.environ |= {"AWS_ACCESS_KEY_ID": S3_KEY, "AWS_SECRET_ACCESS_KEY": S3_SECRET}
            os.environ |= {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
            swift = stack.enter_context(running_swift())
            url = f"s3://{swift.new_bucket('workers')}"
            variables |= {"APF_S3_ENDPOINT_URL": swift.endpoint_url, **ANY_PLACE}
        variables["APF_ALLOWED_URLS"] = url
        settings = Settings.model_validate({name.removeprefix("APF_").lower(): v for name, v in variables.items()})
        yield Place(folder, server, url, settings, variables, swift)


def _grow(place: Place, count: int, stack: ExitStack) -> None:
    """Start workers until there are so many, and wait until they listen."""
    for number in range(len(place.workers), count):
        name = ("-n", f"w{number}@%h")
        place.workers.append(stack.enter_context(running(SIMULATED, place.log(), place.variables, *name)).pid)
    await_that(lambda: place.log().read_bytes().count(b" ready.") >= count, 120, f"{count} workers are ready")


def _pids(swift: S3Server | None) -> list[int]:
    if swift is None or swift.folder is None:
        return []
    return [int(file.read_text()) for file in (swift.folder / "run").glob("*.pid")]


def _has_swift() -> bool:
    return os.geteuid() == 0 and all(shutil.which(name) for name in ("swift-proxy-server", "memcached", "curl"))


def _busy_s() -> float:
    """Seconds that the machine's cores have computed, for whomever."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0))


if __name__ == "__main__":
    main()
