"""Nobody has to do anything: with `apf beat` running, workers find what was lost by themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import RedisServer
from tests.faults.strikes import flush_redis
from tests.faults.world import ROOT, World, closing_world, photos
from tests.waiting import until

pytestmark = pytest.mark.timeout(240)


def test_a_flushed_queue_and_a_killed_worker_mend_themselves(tmp_path: Path, redis_server: RedisServer) -> None:
    source, out = (tmp_path / "in").as_uri(), (tmp_path / "out").as_uri()
    variables = {"CHEAP_SECONDS": "0.1", "APF_RECONCILE_EVERY_S": "1"}
    with closing_world(World(tmp_path, redis_server, source, out, photos(20), variables)) as world:
        with (tmp_path / "beat.log").open("ab") as log:
            beat = subprocess.Popen(
                [sys.executable, "-m", "producer", "beat"],
                cwd=ROOT, env={**os.environ, **world.variables}, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            world.start_worker()
            world.submit()
            until(world.is_mid_shard, 60, "mid-shard", world.log)
            flush_redis(world)
            os.killpg(world.workers[-1].pid, signal.SIGKILL)
            world.start_worker()
            until(lambda: world.summary().done, 90, "done, with nobody's help", world.log, every_s=0.3)
            until(lambda: not list((tmp_path / "out").glob(".apf/open/*")), 20, "no longer open", world.log)
        finally:
            beat.terminate()
            beat.wait(30)
        world.check()
