"""A small platform for fault tests: sources, a destination, Redis, worker processes, and what a calm run would give."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.conftest import RedisServer
from tests.faults import cheap_output
from tests.waiting import until
from workers.batches.create import BatchOptions, create_batch, find_ledger
from workers.batches.rescue import plan_and_send, reconcile, resume
from workers.batches.retry import retry
from workers.broker.app import make_app
from workers.broker.client import Broker, BrokerError
from workers.config.settings import Settings
from workers.errors import LedgerError, StoreUnavailable
from workers.ledger.batch_ledger import Ledger
from workers.ledger.leases import attempts_at, is_live
from workers.ledger.open_batches import open_batches, roots
from workers.status.batch_status import BatchMonitor, BatchSummary
from workers.store import Store, open_store

ROOT = Path(__file__).parents[2]

#: Everything that makes workers give up sooner than in production, in the same order of size.
QUICK = {
    "APF_LEASE_S": "3",
    "APF_PROGRESS_INTERVAL_S": "0.3",
    "APF_SHARD_PHOTOS": "4",
    "APF_SHARD_SOFT_LIMIT_S": "30",
    "APF_SHARD_HARD_LIMIT_S": "40",
    "APF_VISIBILITY_TIMEOUT_S": "81",
    "APF_SHUTDOWN_GRACE_S": "1",
    "APF_S3_CONNECT_TIMEOUT_S": "2",
    "APF_S3_READ_TIMEOUT_S": "5",
}

PHOTO_BYTES = 60_000


def photos(count: int, *, special: Mapping[int, str] | None = None) -> dict[str, bytes]:
    """Photos by key, each of other bytes; `special` says of some what is to become of them (`tests.faults.cheap`)."""
    kinds = {3: "empty", 5: "corrupt"} if special is None else special
    return {
        f"album {number % 3}/{number:03}.jpg": f"{kinds.get(number, 'face')} {number} ".encode() * (PHOTO_BYTES // 9)
        for number in range(count)
    }


@dataclass
class World:
    """One source and one destination. Close it: workers are processes."""

    folder: Path
    redis: RedisServer
    source_url: str
    destination_url: str
    #: By key, as they were put there.
    photos: dict[str, bytes]
    variables: dict[str, str] = field(default_factory=dict)
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    batch_id: str = ""
    callback: str | None = None
    #: What its workers run: by default, a filter that is cheap.
    celery_app: str = "tests.faults.celeryapp"

    def __post_init__(self) -> None:
        self.reporting = self.folder / "reporting"
        self.variables = {
            **QUICK,
            "APF_BROKER_URL": self.redis.url,
            "APF_ALLOWED_URLS": f"{self.source_url} {self.destination_url}",
            "CHEAP_REPORTING": str(self.reporting),
            **self.variables,
        }
        names = {name.removeprefix("APF_").lower(): v for name, v in self.variables.items() if name.startswith("APF_")}
        self.settings = Settings.model_validate(names)
        self.app = make_app(self.settings)
        self.source: Store = open_store(self.source_url, s3=self.settings.s3, create=True)
        self.destination: Store = open_store(self.destination_url, s3=self.settings.s3, create=True)
        self.ledger: Ledger = find_ledger(self.destination_url, self.settings)
        for key, data in self.photos.items():
            self.source.put(key, data)

    # Doing

    def start_worker(self, *arguments: str, **more: str) -> subprocess.Popen[bytes]:
        """A worker process that has its child and listens."""
        command = [sys.executable, "-m", "celery", "-A", self.celery_app, "worker"]
        environment = {**os.environ, "REMAP_SIGTERM": "SIGQUIT", **self.variables, **more}
        name = f"w{len(self.workers)}@%h"
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [*command, "-n", name, "--loglevel", "INFO", *arguments],
                cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        before = self.log.read_bytes().count(b" ready.")
        self.workers.append(process)
        until(lambda: self.log.read_bytes().count(b" ready.") > before, 60, "the worker is ready", self.log)
        return process

    @property
    def log(self) -> Path:
        return self.folder / "worker.log"

    def child(self) -> int:
        """The process that runs the last worker's tasks."""
        found: list[psutil.Process] = []

        def look() -> bool:
            with suppress(psutil.NoSuchProcess):
                parent = psutil.Process(self.workers[-1].pid)
                found[:] = [c for c in parent.children() if "spawn_main" in " ".join(c.cmdline())]
            return bool(found)

        until(look, 20, "the worker has a child", self.log)
        return found[-1].pid

    def submit(self) -> None:
        """Plan and send all, here."""
        asked = BatchOptions(recipe="light", callback=self.callback)
        _, batch = create_batch(self.source_url, self.destination_url, asked, self.settings)
        self.batch_id = batch.id
        plan_and_send(self.ledger, batch.id, Broker(self.app), self.settings)

    def start_producer(self) -> subprocess.Popen[bytes]:
        """`apf protect --no-wait` in a process of its own."""
        command = [sys.executable, "-m", "producer", "protect", self.source_url, self.destination_url, "--no-wait"]
        with (self.folder / "producer.log").open("ab") as log:
            return subprocess.Popen(
                [*command, "--recipe", "light"], cwd=ROOT, env={**os.environ, **self.variables}, stdout=log, stderr=log
            )

    def reconcile(self) -> None:
        """What the periodic task does; a Redis that is down is for the next time."""
        with suppress(BrokerError):
            reconcile(roots(self.settings), Broker(self.app), self.settings)

    def resume(self) -> None:
        resume(self.ledger, self.batch_id, Broker(self.app), self.settings)

    def retry(self) -> None:
        retry(self.ledger, self.batch_id, Broker(self.app), self.settings)

    def close(self) -> None:
        for process in self.workers:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    # Looking

    def summary(self) -> BatchSummary:
        return BatchMonitor(self.ledger, self.batch_id).poll()

    def is_registered(self) -> bool:
        """Whether the periodic task still looks after the batch."""
        return any(batch_id == self.batch_id for _, batch_id in open_batches(roots(self.settings), self.settings))

    def is_mid_shard(self) -> bool:
        """Somebody is at a shard, and something is written."""
        at_work = any(is_live(attempt) for attempt in attempts_at(self.ledger, self.batch_id))
        return at_work and next(self.destination.list(), None) is not None

    def wait(self, within_s: float = 120) -> float:
        """Until every photo has its outcome, reconciling all along; the seconds that it took."""
        started = time.monotonic()
        self.batch_id = self.batch_id or self.ledger.batches()[-1]

        def is_done() -> bool:
            with suppress(StoreUnavailable):  # we look at it through the same fault
                self.reconcile()
                return self.summary().done
            return False

        until(is_done, within_s, "the batch is done", self.log, every_s=0.5)
        return time.monotonic() - started

    def losses(self) -> tuple[int, int]:
        """Photos lost (no outcome, or no output where one is due); doubled or wrong (planned twice, other bytes)."""
        summary = self.summary()
        outcomes = expected(self.photos)
        written = {info.key for info in self.destination.list()}
        due = {key for key, outcome in outcomes.items() if outcome != "failed"}
        planned = self.planned(summary)
        wrong = {key for key in written & due if self.destination.get(key).data != cheap_output(self.photos[key])}
        wrong |= {key for key, times in Counter(planned).items() if times > 1} | written - due
        return max(summary.pending + summary.missing, len(due - written)), len(wrong)

    def planned(self, summary: BatchSummary) -> list[str]:
        """Keys by shard. A plan that was torn after its shard was done is needed no more, and stays as it is."""
        keys: list[str] = []
        for shard in range(summary.batch.shards):
            try:
                keys += [ref.key for ref in self.ledger.read_plan(self.batch_id, shard)]
            except LedgerError:
                keys += self.reported(shard)
        return keys

    def reported(self, shard: int) -> list[str]:
        report = self.ledger.read_report(self.batch_id, shard)
        return [photo.key for photo in report.photos] if report else []

    def check(self) -> None:
        """What must hold after whatever happened."""
        outcomes = expected(self.photos)
        summary = self.summary()
        assert {failure.key for failure in summary.failures} == {k for k, o in outcomes.items() if o == "failed"}
        counts = {"protected": summary.protected, "no_face": summary.no_face, "failed": summary.failed}
        assert counts == {name: list(outcomes.values()).count(name) for name in counts}
        assert (summary.skipped, summary.pending, summary.missing) == (0, 0, 0)
        planned = self.planned(summary)
        reported = [key for shard in range(summary.batch.shards) for key in self.reported(shard)]
        assert sorted(planned) == sorted(reported)
        if summary.batch.first_retry is None:
            assert sorted(planned) == sorted(self.photos), "each photo is planned once"
        self.check_outputs(outcomes)

    def check_outputs(self, outcomes: Mapping[str, str]) -> None:
        """Nothing but protected photos was published, each from its own source, whole and with its metadata."""
        written = {info.key for info in self.destination.list()}
        assert written == {key for key, outcome in outcomes.items() if outcome != "failed"}
        for key in written:
            blob, source = self.destination.get(key), self.source.get(key)
            assert blob.data == cheap_output(self.photos[key]), key
            assert blob.info.metadata["apf-source-etag"] == source.info.etag
            assert blob.info.metadata["apf-outcome"] == outcomes[key]
        for key, data in self.photos.items():
            assert self.source.get(key).data == data, f"source {key} was changed"
        assert {info.key for info in self.source.list()} == set(self.photos)


def expected(photos: Mapping[str, bytes]) -> dict[str, str]:
    """The outcome of each photo, by its first word."""
    named = {b"face": "protected", b"empty": "no_face", b"corrupt": "failed", b"deadly": "failed"}
    return {key: named[data.split(b" ", 1)[0]] for key, data in photos.items()}


@contextmanager
def closing_world(world: World) -> Iterator[World]:
    try:
        yield world
    finally:
        world.close()
