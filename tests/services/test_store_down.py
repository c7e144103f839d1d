"""A worker whose store is down says so in lines, and not in pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import RedisServer
from tests.faults.world import World, closing_world
from tests.waiting import until
from workers.core.records import ShardJob
from workers.core.task_names import PLAN, RECONCILE, RUN_SCHEDULES, TASK

pytestmark = pytest.mark.timeout(180)

BATCH = "s3://gone/.apf/batches/b1"


def test_every_task_tells_of_a_store_that_is_down_without_a_traceback(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """Celery's own lines hold no stack either: what is to be started stands in the first line."""
    source, out = (tmp_path / "in").as_uri(), (tmp_path / "out").as_uri()
    variables = {
        "APF_S3_ENDPOINT_URL": "http://127.0.0.1:1",
        "APF_ALLOWED_URLS": "s3://gone",
        "APF_LEDGER_URL": "s3://gone",
    }
    with closing_world(World(tmp_path, redis_server, source, out, {}, variables)) as world:
        world.start_worker()
        before = len(world.log.read_text().splitlines())
        shard = ShardJob(batch_url=BATCH, shard=0, queue="interactive").encode()
        for task, arguments in ((PLAN, [BATCH]), (TASK, [shard]), (RECONCILE, []), (RUN_SCHEDULES, [])):
            world.app.send_task(task, args=arguments, queue="interactive")
        said = [f"Task {PLAN}[", f"Task {TASK}[", "open batches of s3://gone", "schedules of s3://gone"]

        def told() -> set[str]:
            lines = [line for line in world.log.read_text().splitlines() if "the store did not answer" in line]
            return {words for words in said if any(words in line for line in lines)}

        until(lambda: told() == set(said), 90, "each has failed", world.log)
        text = world.log.read_text()
    assert "Traceback" not in text
    assert len(text.splitlines()) - before < 25
