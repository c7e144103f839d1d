"""`python -m tests.benchmarks.bench_share`: uploads beside a bulk batch on one worker, and what each gets.

A real Redis, a real `apf worker` with the real filter. 50 uploads of two users come within a minute, evenly, while a
bulk batch of 100 photos runs; all photos have a face. It ends with an error where a photo failed, where bulk work stood
still, or got less than its share of what it does alone, less a tolerance for the turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from producer import Client
from tests.benchmarks.processes import APF, a_photo, await_that, running, running_redis, unwind_when_ended
from tests.benchmarks.record import record, table
from workers.batches.create import find_ledger
from workers.config.settings import load_settings
from workers.status.batch_status import BatchMonitor

#: Of the share that is promised, bulk work gets at least so much: turns are whole, and beginning again takes time.
TOLERANCE = 0.6
LOOK_S = 0.25


@dataclass
class Upload:
    """One upload; seconds from the call until its protected photo is reported."""

    user: str
    came_s: float
    seconds: float = 0.0
    failed: int = 0


@dataclass
class Run:
    """What was seen; moments count from the first upload."""

    uploads: list[Upload] = field(default_factory=list)
    #: Moments, and bulk photos done by then.
    progress: list[tuple[float, int]] = field(default_factory=list)
    bulk_failed: int = 0
    #: Bulk photos a second with no upload.
    alone_per_s: float = 0.0
    bulk_s: float = 0.0


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uploads", type=int, default=50)
    parser.add_argument("--within", type=float, default=60.0, help="seconds in which they come")
    parser.add_argument("--bulk", type=int, default=100, help="photos of the bulk batch")
    parser.add_argument("--side", type=int, default=2048, help="pixels of a photo's sides")
    parser.add_argument("--recipe", default="fast", help="of uploads and bulk work")
    asked = parser.parse_args(arguments)
    unwind_when_ended()
    with tempfile.TemporaryDirectory() as name, running_redis(Path(name) / "redis") as server:
        folder = Path(name)
        for sub in ("bulk", "bulk-out", "up", "up-out"):
            (folder / sub).mkdir()
        for number in range(asked.bulk):
            (folder / "bulk" / f"{number:03}.jpg").write_bytes(a_photo(number, asked.side))
        os.environ |= {
            "APF_BROKER_URL": server.url,
            "APF_ALLOWED_URLS": folder.as_uri(),
            "APF_PROGRESS_INTERVAL_S": "1",
        }
        with running(APF, folder / "worker.log", {}, "worker", "--loglevel", "WARNING"):
            run = measure(folder, asked)
    report(run, asked.recipe, load_settings().bulk_share)


def measure(folder: Path, asked: argparse.Namespace) -> Run:
    run, client = Run(), Client()
    upload(client, folder, asked.recipe, Upload("warm-up", 0.0), a_photo(999, asked.side))  # models load
    places = [(folder / name).as_uri() for name in ("bulk", "bulk-out")]
    bulk = client.submit(*places, tenant="library", recipe=asked.recipe)
    watch = BatchMonitor(find_ledger(bulk.destination, load_settings()), bulk.batch)
    run.alone_per_s = pace(watch)
    started = time.monotonic()
    threads = []
    for number in range(asked.uploads):
        time.sleep(max(0.0, started + number * asked.within / asked.uploads - time.monotonic()))
        run.uploads.append(one := Upload(f"user-{number % 2}", time.monotonic() - started))
        photo = a_photo(1000 + number, asked.side)
        threads.append(threading.Thread(target=upload, args=(Client(), folder, asked.recipe, one, photo)))
        threads[-1].start()
        run.progress.append((time.monotonic() - started, done(watch)))
    while any(thread.is_alive() for thread in threads):
        run.progress.append((time.monotonic() - started, done(watch)))
        time.sleep(LOOK_S)
    summary = client.wait(bulk.destination, bulk.batch, timeout_s=900)
    run.bulk_failed, run.bulk_s = summary.failed + summary.missing, time.monotonic() - started
    return run


def pace(watch: BatchMonitor) -> float:
    """Bulk photos a second while nothing else is asked for, over some photos."""
    await_that(lambda: done(watch) > 0, 120, "the bulk batch is begun")
    started, before = time.monotonic(), done(watch)
    await_that(lambda: done(watch) >= before + 8, 300, "some bulk photos are done")
    return (done(watch) - before) / (time.monotonic() - started)


def done(watch: BatchMonitor) -> int:
    summary = watch.poll(running=True)
    return summary.protected + summary.running.protected


def upload(client: Client, folder: Path, recipe: str, one: Upload, photo: bytes) -> None:
    name = f"{one.user}-{one.came_s:07.3f}.jpg"
    (folder / "up" / name).write_bytes(photo)
    started = time.monotonic()
    places = [(folder / which).as_uri() for which in ("up", "up-out")]
    sent = client.submit(*places, photos=[name], tenant=one.user, recipe=recipe)
    summary = client.wait(sent.destination, sent.batch, timeout_s=600)
    one.seconds, one.failed = time.monotonic() - started, int(summary.protected != 1)


def report(run: Run, recipe: str, share: float) -> None:
    (first_s, first), (last_s, last) = run.progress[0], run.progress[-1]
    got = (last - first) / (last_s - first_s) / run.alone_per_s
    seconds = sorted(one.seconds for one in run.uploads)
    spread = {
        "min, s": seconds[0],
        "median, s": statistics.median(seconds),
        "p95, s": seconds[min(len(seconds) - 1, int(0.95 * len(seconds)))],
        "max, s": seconds[-1],
    }
    failed = sum(one.failed for one in run.uploads) + run.bulk_failed
    print(f"{table([{'recipe': recipe, 'uploads': len(seconds), **spread, 'failed': failed}])}\n")
    marks = [next(((t, n) for t, n in run.progress if t >= mark), (last_s, last)) for mark in range(0, int(last_s), 10)]
    print(f"{table([{'after, s': t, 'bulk photos done': n} for t, n in marks])}\n")
    print(f"bulk work got {got:.0%} of what it does alone ({run.alone_per_s:.2f} photos/s) over {last_s:.0f} s\n")
    figures = {"spread": spread, "failed": failed, "bulk_share": got, "alone_per_s": run.alone_per_s}
    record("share", {"recipe": recipe, **figures, "busy_s": last_s, "bulk_photos": last - first, "progress": marks})
    if failed:
        raise SystemExit(f"{failed} photos failed")
    if got < TOLERANCE * share:
        raise SystemExit(f"bulk work got {got:.0%} of its pace: less than {TOLERANCE * share:.0%}")


if __name__ == "__main__":
    main()
