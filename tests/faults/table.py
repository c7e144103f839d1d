"""The README's table: faults, moments, runs and seconds to recover, and the same faults on a plain Celery job.

APF_FAULTS_CSV=faults.csv make soak        appends a row for each run
python -m tests.faults.table faults.csv    prints the table; needs redis-server
"""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import redis

from tests.conftest import RedisServer, _free_ports, _redis_binary
from tests.faults.plain import lost
from tests.faults.world import photos

Strike = Callable[[subprocess.Popen[bytes], RedisServer], None]


def kill_child(worker: subprocess.Popen[bytes], _: RedisServer) -> None:
    import psutil  # noqa: PLC0415

    psutil.Process(worker.pid).children()[-1].kill()


def kill_all(worker: subprocess.Popen[bytes], _: RedisServer) -> None:
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()


def terminate(worker: subprocess.Popen[bytes], _: RedisServer) -> None:
    worker.terminate()
    worker.wait(60)


def flush(_: subprocess.Popen[bytes], server: RedisServer) -> None:
    with redis.Redis(port=server.port) as client:
        client.flushall()


def restart(_: subprocess.Popen[bytes], server: RedisServer) -> None:
    server.kill()
    server.start()


#: By the matrix's names.
PLAIN: dict[str, Strike] = {
    "worker child SIGKILL": kill_child,
    "worker parent SIGKILL": kill_all,
    "worker SIGTERM": terminate,
    "Redis restart": restart,
    "Redis FLUSHALL": flush,
}
PHOTOS = 40


def main(path: Path) -> None:
    plain = {name: plain_loss(strike) for name, strike in PLAIN.items()}
    print("| fault | moment | runs | photos lost | doubled or wrong | seconds to recover | lost by a plain job |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for (fault, moment), found in rows(path).items():
        seconds, lost_, wrong = zip(*found, strict=True)
        theirs = f"{plain[fault]} of {PHOTOS}" if fault in plain and moment == "mid-shard" else "-"
        print(
            f"| {fault} | {moment} | {len(found)} | {sum(lost_):.0f} | {sum(wrong):.0f} | {median(seconds):.0f} "
            f"| {theirs} |"
        )


def rows(path: Path) -> dict[tuple[str, str], list[tuple[float, float, float]]]:
    """Seconds, lost, doubled or wrong; by fault and moment."""
    found: dict[tuple[str, str], list[tuple[float, float, float]]] = defaultdict(list)
    with path.open(newline="") as file:
        for fault, moment, seconds, lost_, wrong in csv.reader(file):
            found[fault, moment].append((float(seconds), float(lost_), float(wrong)))
    return found


def plain_loss(strike: Strike) -> int:
    with tempfile.TemporaryDirectory() as name, server(Path(name)) as own:
        return lost(Path(name), own.url, photos(PHOTOS, special={}), lambda worker: strike(worker, own))


@contextmanager
def server(folder: Path) -> Iterator[RedisServer]:
    own = RedisServer(_redis_binary(), folder, _free_ports([0]))
    own.start()
    try:
        yield own
    finally:
        own.kill()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
