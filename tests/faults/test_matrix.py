"""Faults at moments, with real processes: no photo is lost, doubled or wrong.

`make test` runs the faults of every day in the middle of a shard, and a rotating tenth of the others; `make soak`
(APF_SOAK=1) runs all at every moment, longer and more often.
Rows for the table of docs/faults.md are appended to APF_FAULTS_CSV where it is set.
"""

from __future__ import annotations

import csv
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RedisServer, S3Server
from tests.faults import FASTER
from tests.faults.proxy import FaultProxy, Mode
from tests.faults.strikes import PROCESS_FAULTS, SOAK, STORE_DOWN_S, STORE_MODES, Fault, Struck
from tests.faults.world import World, closing_world, photos
from tests.waiting import until
from workers.errors import StoreUnavailable

MOMENTS = ("idle", "mid-shard", "reporting") if SOAK else ("mid-shard",)
#: Read before the tests' own environment takes all such variables away.
TABLE = os.environ.get("APF_FAULTS_CSV")
RUNS = range(3 if SOAK else 1)
#: Each stands for its kind: a process, the queue, the store.
EVERY_DAY = {"worker child SIGKILL", "Redis FLUSHALL", "503"}

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def on_disk(tmp_path: Path, redis_server: RedisServer) -> Iterator[World]:
    source, out = (tmp_path / "in").as_uri(), (tmp_path / "out").as_uri()
    variables = {"CHEAP_SECONDS": "0.15", "CHEAP_REPORT_SECONDS": "0.6"}
    with closing_world(World(tmp_path, redis_server, source, out, photos(16), variables)) as world:
        yield world


def faults(names: Iterable[str]) -> list[Any]:
    """The faults as parameters, those that are not of every day as one matrix."""
    rotating = pytest.mark.rotating("faults")
    return [name if name in EVERY_DAY else pytest.param(name, marks=rotating) for name in names]


def at(moment: str, world: World, name: str, fault: Fault) -> None:
    """Bring the world to the moment, strike, wait until all is done, and check it."""
    world.start_worker()
    if moment == "idle":
        fault(world)
        struck = time.monotonic()
        world.submit()
    else:
        world.submit()
        happened = world.is_mid_shard if moment == "mid-shard" else world.reporting.exists
        until(happened, 60, moment, world.log)
        struck = time.monotonic()
        fault(world)
    ends_well(world, name, moment, struck)


def ends_well(world: World, fault: str, moment: str, struck: float) -> None:
    """A row for the table, also of a run that fails."""
    try:
        world.wait()
    finally:
        if TABLE:
            row = [fault, moment, round(time.monotonic() - struck, 1), *world.losses()]
            with Path(TABLE).open("a", newline="") as file:
                csv.writer(file).writerow(row)
    world.check()


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", faults(PROCESS_FAULTS))
def test_processes_and_queue(on_disk: World, name: str, moment: str, run: int) -> None:
    at(moment, on_disk, name, PROCESS_FAULTS[name])


@pytest.mark.parametrize("run", RUNS)
def test_producer_is_killed_while_planning(tmp_path: Path, redis_server: RedisServer, run: int) -> None:
    """Some shards are planned, perhaps one without its message, and the rest of the source is not listed yet."""
    source, out = (tmp_path / "in").as_uri(), (tmp_path / "out").as_uri()
    variables = {"APF_SHARD_PHOTOS": "1"}
    with closing_world(World(tmp_path, redis_server, source, out, photos(120), variables)) as world:
        producer = world.start_producer()
        until(lambda: any((tmp_path / "out").glob(".apf/batches/*/plan/00010.jsonl")), 60, "planning", world.log)
        producer.kill()
        producer.wait()
        (world.batch_id,) = world.ledger.batches()
        assert not world.ledger.read_batch(world.batch_id).planned
        world.start_worker()
        struck = time.monotonic()
        world.resume()
        ends_well(world, "producer SIGKILL", "planning", struck)


@pytest.mark.parametrize("run", RUNS)
def test_a_photo_that_kills_its_worker_costs_itself_alone(tmp_path: Path, redis_server: RedisServer, run: int) -> None:
    source, out = (tmp_path / "in").as_uri(), (tmp_path / "out").as_uri()
    album = photos(8, special={1: "deadly", 3: "empty"})
    with closing_world(World(tmp_path, redis_server, source, out, album)) as world:
        world.start_worker()
        world.submit()
        ends_well(world, "a deadly photo", "mid-shard", time.monotonic())
        (failure,) = world.summary().failures
    assert failure.attempts == 6, "twice with its shard, three times alone, and once to say so"
    assert "5 times" in failure.reason


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("mode", faults(STORE_MODES))
def test_store(tmp_path: Path, redis_server: RedisServer, swift: S3Server, mode: Mode, moment: str, run: int) -> None:
    bucket = swift.new_bucket()
    proxy = FaultProxy(int(swift.endpoint_url.rpartition(":")[2]))
    variables = {
        "APF_S3_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}",
        "CHEAP_SECONDS": "0.15",
        "CHEAP_REPORT_SECONDS": "0.6",
    }
    world = World(tmp_path, redis_server, f"s3://{bucket}/in", f"s3://{bucket}/out", photos(12), variables)

    def strike(_: Struck) -> None:
        """The fault passes by itself, while whoever is struck has to cope."""
        proxy.set(mode, cuts=3)
        threading.Timer(STORE_DOWN_S, proxy.set, ["pass"]).start()
        if moment == "idle":
            time.sleep(STORE_DOWN_S + 0.5)

    with closing_world(world):
        try:
            at(moment, world, f"store {mode}", strike)
        finally:
            proxy.close()


@pytest.mark.rotating("faults")
def test_a_store_that_is_away_for_long_costs_no_photo(
    tmp_path: Path, redis_server: RedisServer, swift: S3Server
) -> None:
    """Seven waits, which by an ordinary clock are five to ten minutes; nobody but the worker looks after the shards."""
    bucket, waits = swift.new_bucket(), 7
    proxy = FaultProxy(int(swift.endpoint_url.rpartition(":")[2]))
    variables = {"APF_S3_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}", "CHEAP_SECONDS": "0.15", FASTER: "200"}
    variables |= {"APF_SHARD_PHOTOS": "12", "APF_VISIBILITY_TIMEOUT_S": "3600"}
    world = World(tmp_path, redis_server, f"s3://{bucket}/in", f"s3://{bucket}/out", photos(12), variables)
    with closing_world(world):
        world.start_worker()
        world.submit()
        until(world.is_mid_shard, 60, "mid-shard", world.log)
        proxy.set("down")
        until(lambda: world.log.read_text().count("retry: Retry in") >= waits, 200, f"{waits} waits", world.log)
        proxy.set("pass")

        def is_done() -> bool:
            with suppress(StoreUnavailable):
                return world.summary().done
            return False

        until(is_done, 90, "the batch is done", world.log, every_s=0.5)
        world.check()
        assert "given up" not in world.log.read_text()
