"""What queue, ledger and store cost beside the bare loop: `python -m tests.benchmarks.bench_overhead`.

The same photos of one megapixel, in turns and several times over: by a loop of `apf.protect_photo` (read the file,
protect, write the file, on as many threads as cores), by one of `apf.protect.pipeline.protect_batch`, and by `apf
protect` with a worker on a real Redis, from folder to folder and, with `--s3`, from bucket to bucket (moto). The
processor time of all processes of ours is compared: the command, the worker with its decoders, Redis. What starting and
loading take is left out: loops and worker are warm, and of the command and its batch that of one photo is subtracted.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.benchmarks.bench_protect import make_photos
from tests.benchmarks.record import cores, record, table
from tests.conftest import ANY_PLACE, S3_KEY, S3_SECRET, RedisServer, S3Server, _free_ports, _redis_binary

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Cost:
    """Seconds of processor and of waiting, for all photos of a run."""

    cpu_s: float
    wall_s: float


def bare(kind: str, source: Path, destination: Path) -> Cost:
    """One of the loops, in a process of its own."""
    command = [sys.executable, "-m", __spec__.name, "--loop", kind, str(source), str(destination)]
    ended = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return Cost(**json.loads(ended.stdout.splitlines()[-1]))


def loop(kind: str, source: Path, destination: Path) -> None:
    """In that process: warm up with the first photo, then protect all of them; prints the cost."""
    from apf import load_filter, protect_photo  # noqa: PLC0415  what they load is no matter of the parent's
    from apf.photo import Limits, decode  # noqa: PLC0415
    from apf.protect.pipeline import protect_batch  # noqa: PLC0415
    from apf.protect.publish import encoded  # noqa: PLC0415

    filter = load_filter("standard")

    def by_photo(path: Path) -> None:
        (destination / path.name).write_bytes(protect_photo(path.read_bytes(), filter).data)

    def by_batch(path: Path) -> None:
        photo = decode(path.read_bytes(), Limits(), keep_metadata=filter.recipe.keep_metadata)
        (protected,) = protect_batch([photo], filter)
        (destination / path.name).write_bytes(encoded(protected, filter.recipe))

    work: Callable[[Path], None] = by_photo if kind == "photo" else by_batch
    paths = sorted(source.iterdir())
    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(work, paths[:2]))
        cpu_s, wall_s = time.process_time(), time.monotonic()
        list(pool.map(work, paths))
        cost = {"cpu_s": time.process_time() - cpu_s, "wall_s": time.monotonic() - wall_s}
    print(json.dumps(cost))


class Queue:
    """A Redis and a worker, warm, and the command that gives them batches."""

    def __init__(self, redis: RedisServer, variables: dict[str, str]) -> None:
        assert redis.process
        self.redis = psutil.Process(redis.process.pid)
        self.variables = {**os.environ, "APF_BROKER_URL": redis.url, **variables}
        command = [sys.executable, "-m", "producer", "worker", "--loglevel", "ERROR"]
        self.worker = psutil.Popen(command, cwd=ROOT, env=self.variables)
        #: Where the processor's time of the last batch went, by process.
        self.parts: dict[str, float] = {}

    def protect(self, source: str, destination: str) -> Cost:
        """One batch; its wall time is the worker's, in its shards."""
        before = self._used()
        command = [sys.executable, "-m", "producer", "protect", source, destination, "--json"]
        ended = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=self.variables)
        time.sleep(0.5)  # what a shard leaves to do: its message is acknowledged, the batch closed
        after = self._used()
        self.parts = {name: after.get(name, 0.0) - before.get(name, 0.0) for name in after}
        return Cost(sum(self.parts.values()), json.loads(ended.stdout)["wall_seconds"])

    def _used(self) -> dict[str, float]:
        ours = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = {"command": ours.ru_utime + ours.ru_stime, "redis": _cpu_s(self.redis)}
        used["worker's parent"] = _cpu_s(self.worker)
        (child,) = (p for p in self.worker.children() if "spawn_main" in " ".join(p.cmdline()))
        used["worker"] = _cpu_s(child)
        used["decoders"] = sum(_cpu_s(process) for process in child.children(recursive=True))
        return used

    def close(self) -> None:
        for process in [*self.worker.children(recursive=True), self.worker]:
            process.kill()
        self.worker.wait()


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def services(folder: Path, *, s3: bool) -> Iterator[tuple[Queue, S3Server | None]]:
    with ExitStack() as stack:
        (folder / "redis").mkdir()
        redis = RedisServer(_redis_binary(), folder / "redis", _free_ports([0]))
        redis.start()
        stack.callback(redis.kill)
        variables = {"APF_ALLOWED_URLS": folder.as_uri()}
        server = None
        if s3:
            os.environ |= {"AWS_ACCESS_KEY_ID": S3_KEY, "AWS_SECRET_ACCESS_KEY": S3_SECRET}
            os.environ["AWS_DEFAULT_REGION"] = "us-east-1"
            server = _moto(stack)
            variables = {"APF_ALLOWED_URLS": f"{folder.as_uri()} s3://library s3://public"}
            variables |= {"APF_S3_ENDPOINT_URL": server.endpoint_url, **ANY_PLACE}
        queue = Queue(redis, variables)
        stack.callback(queue.close)
        yield queue, server


def _moto(stack: ExitStack) -> S3Server:
    """In a process of its own, whose time is not ours."""
    port = _free_ports([0])
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    server = S3Server(f"http://127.0.0.1:{port}")
    for name in ("library", "public"):
        server.client.create_bucket(Bucket=name)
    return server


def turns(folder: Path, photos: int, repeats: int, *, s3: bool) -> Iterator[dict[str, float]]:
    """For each turn, the seconds of each way for a photo, and where those of the queue went."""
    source, one = folder / "in", folder / "one"
    make_photos(source, 1, photos)
    one.mkdir()
    first = min(source.iterdir())
    (one / first.name).write_bytes(first.read_bytes())
    with services(folder, s3=s3) as (queue, server):
        if server:
            for path in source.iterdir():
                server.client.upload_file(str(path), "library", f"all/{path.name}")
            server.client.upload_file(str(first), "library", f"one/{first.name}")
        _ready(queue, source.as_uri(), (folder / "warm-up").as_uri())
        for turn in range(repeats):
            out = folder / f"out-{turn}"
            found: dict[str, float] = {}
            for kind in ("photo", "batch"):
                (out / kind).mkdir(parents=True)
                cost = bare(kind, source, out / kind)
                found |= {f"{kind}_cpu_s": cost.cpu_s / photos, f"{kind}_wall_s": cost.wall_s / photos}
            places = {"folder": (folder.as_uri(), f"{out.as_uri()}/")}
            if server:
                places["s3"] = ("s3://library", f"s3://public/{turn}/")
            for name, (base, to) in places.items():
                paths = ("one", "in") if name == "folder" else ("one", "all")
                found |= _queued(queue, name, [f"{base}/{path}" for path in paths], to, photos)
            yield found


def _queued(queue: Queue, name: str, sources: list[str], to: str, photos: int) -> dict[str, float]:
    """What a batch of all photos costs more than one of one photo, for each photo."""
    one = queue.protect(sources[0], f"{to}one")
    parts = dict(queue.parts)
    all_of_them = queue.protect(sources[1], f"{to}all")
    more = photos - 1
    found = {f"{name} {part}_cpu_s": (queue.parts[part] - parts[part]) / more for part in parts}
    found[f"{name}_cpu_s"] = (all_of_them.cpu_s - one.cpu_s) / more
    found[f"{name}_wall_s"] = (all_of_them.wall_s - one.wall_s) / more
    return found


def _ready(queue: Queue, source: str, destination: str) -> None:
    """Have the worker load its models and start its decoders, by protecting some photos."""
    command = [sys.executable, "-m", "producer", "protect", source, destination, "--json"]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env=queue.variables)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--s3", action="store_true")
    parser.add_argument("--loop", nargs=3, metavar=("KIND", "IN", "OUT"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.loop:
        kind, source, destination = asked.loop
        loop(kind, Path(source), Path(destination))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = list(turns(Path(folder), asked.photos, asked.repeats, s3=asked.s3))
    names = [name for name in ("photo", "batch", "folder", "s3") if f"{name}_cpu_s" in found[0]]
    rows = [row(name, found) for name in names]
    parts = [name for name in found[0] if " " in name]
    print(table(rows))
    print("\n" + table([{"part": p.removesuffix("_cpu_s"), "ms a photo": 1000 * _median(found, p)} for p in parts]))
    record("overhead", {"photos": asked.photos, "turns": found, "rows": rows})


def row(name: str, turns: list[dict[str, float]]) -> dict[str, object]:
    """A way's medians, and by how much it exceeds the loop of `protect_photo` in the same turn."""
    ways = {"photo": "loop of protect_photo", "batch": "loop of protect_batch", "folder": "queue, folders"}
    more = [100 * (turn[f"{name}_cpu_s"] / turn["photo_cpu_s"] - 1) for turn in turns]
    return {
        "way": ways.get(name, "queue, S3"),
        "processor, ms a photo": 1000 * _median(turns, f"{name}_cpu_s"),
        "wall, ms a photo": 1000 * _median(turns, f"{name}_wall_s"),
        "more processor, %": statistics.median(more),
        "least, %": min(more),
        "most, %": max(more),
        "more wall, %": statistics.median(100 * (turn[f"{name}_wall_s"] / turn["photo_wall_s"] - 1) for turn in turns),
    }


def _median(turns: list[dict[str, float]], name: str) -> float:
    return statistics.median(turn[name] for turn in turns)


if __name__ == "__main__":
    main()
