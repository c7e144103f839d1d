"""Messages that come twice, and workers that race for one shard."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import RedisServer
from tests.faults.world import World, closing_world, photos
from tests.waiting import until
from workers.broker.client import Broker
from workers.core.records import ShardJob

pytestmark = pytest.mark.timeout(240)


def test_every_message_twice_gives_the_same_bytes_and_one_report(tmp_path: Path, redis_server: RedisServer) -> None:
    source, out = (tmp_path / "in").as_uri(), (tmp_path / "out").as_uri()
    variables = {"CHEAP_SECONDS": "0.05", "CHEAP_REPORT_SECONDS": "0.3"}
    with closing_world(World(tmp_path, redis_server, source, out, photos(16), variables)) as world:
        world.submit()
        sender = Broker(world.app)
        for shard in range(world.ledger.read_batch(world.batch_id).shards):
            sender.send(ShardJob(batch_url=world.ledger.batch_url(world.batch_id), shard=shard))
        world.start_worker()
        world.start_worker()
        until(lambda: world.summary().done, 60, "done", world.log)
        until(lambda: world.log.read_text().count("succeeded in") >= 8, 60, "all eight messages are taken", world.log)
        world.check()
        reports = list((tmp_path / "out" / ".apf" / "batches" / world.batch_id / "reports").iterdir())
        assert len(reports) == 4
        first = {path: path.stat().st_mtime_ns for path in reports}
        sender.send(ShardJob(batch_url=world.ledger.batch_url(world.batch_id), shard=0))
        until(lambda: world.log.read_text().count("succeeded in") >= 9, 60, "one more", world.log)
        assert {path: path.stat().st_mtime_ns for path in reports} == first, "a report stands"
