"""What the same faults cost a plain Celery job: the comparison of docs/faults.md, so `make soak` alone runs it."""

from __future__ import annotations

import csv
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import RedisServer, S3Server
from tests.faults.plain import PlainWorld
from tests.faults.proxy import FaultProxy, Mode
from tests.faults.strikes import PROCESS_FAULTS, SOAK, STORE_DOWN_S, STORE_MODES
from tests.faults.test_matrix import TABLE
from tests.faults.world import photos
from tests.waiting import until

pytestmark = [pytest.mark.timeout(300), pytest.mark.skipif(not SOAK, reason="a comparison: make soak")]

PHOTOS = 40


def missing_after(world: PlainWorld, name: str, strike: Callable[[], None]) -> tuple[int, int]:
    """Submit, strike once something is written, and count; a row `plain` for the table."""
    with closing(world):
        world.start_worker()
        world.submit()
        until(world.written, 60, "a photo is written", world.folder / "plain.log")
        strike()
        missing, later = world.losses()
    if TABLE:
        with Path(TABLE).open("a", newline="") as file:
            csv.writer(file).writerow([name, "plain", PHOTOS, missing, later])
    return missing, later


def test_a_calm_run_misses_none(tmp_path: Path, redis_server: RedisServer, swift: S3Server) -> None:
    """Or the comparison would be unfair."""
    world = PlainWorld(tmp_path, redis_server, swift, swift.endpoint_url, photos(PHOTOS, special={}))
    assert missing_after(world, "none", lambda: None) == (0, 0)


@pytest.mark.parametrize("name", PROCESS_FAULTS)
def test_processes_and_queue(tmp_path: Path, redis_server: RedisServer, swift: S3Server, name: str) -> None:
    world = PlainWorld(tmp_path, redis_server, swift, swift.endpoint_url, photos(PHOTOS, special={}))
    missing, later = missing_after(world, name, lambda: PROCESS_FAULTS[name](world))
    assert 0 <= later <= missing < PHOTOS


@pytest.mark.parametrize("mode", STORE_MODES)
def test_store(tmp_path: Path, redis_server: RedisServer, swift: S3Server, mode: Mode) -> None:
    proxy = FaultProxy(int(swift.endpoint_url.rpartition(":")[2]))
    endpoint_url = f"http://127.0.0.1:{proxy.port}"
    world = PlainWorld(tmp_path, redis_server, swift, endpoint_url, photos(PHOTOS, special={}))

    def strike() -> None:
        proxy.set(mode, cuts=3)
        threading.Timer(STORE_DOWN_S, proxy.set, ["pass"]).start()

    with closing(proxy):
        missing, later = missing_after(world, f"store {mode}", strike)
    assert 0 <= later <= missing < PHOTOS
