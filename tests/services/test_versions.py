"""An older worker and a newer batch, with real processes and a real Redis."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import RedisServer
from tests.faults.world import World, closing_world, photos
from tests.waiting import until
from workers.core.records import BULK
from workers.core.task_names import TASK

pytestmark = pytest.mark.timeout(240)


def test_an_older_worker_leaves_a_newer_batch_to_newer_ones(tmp_path: Path, redis_server: RedisServer) -> None:
    """It takes the messages and reports nothing, not even a failure; once a worker knows the record, all is done."""
    source, out = (tmp_path / "in").as_uri(), (tmp_path / "out").as_uri()
    with closing_world(World(tmp_path, redis_server, source, out, photos(8))) as world:
        world.submit()
        record = tmp_path / "out" / ".apf" / "batches" / world.batch_id / "batch.json"
        known = record.read_text()
        record.write_text(json.dumps({**json.loads(known), "from_the_future": 1}))
        message = {"batch_url": world.ledger.batch_url(world.batch_id), "shard": 0, "from_the_future": 1}
        world.app.send_task(TASK, args=[message], queue=BULK)
        world.start_worker()
        until(lambda: world.log.read_text().count("left to workers of another version") >= 2, 60, "refused", world.log)
        until(lambda: "a message is no shard's" in world.log.read_text(), 60, "the message is refused", world.log)
        assert not (record.parent / "reports").exists()
        assert not (record.parent / "attempts").exists() or not list((record.parent / "attempts").rglob("*.json"))
        record.write_text(known)  # from here on the worker is one that knows it
        world.wait()
        world.check()
