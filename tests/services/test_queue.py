"""What Redis holds, asked of a real one; and what a worker makes of a failed task."""

from __future__ import annotations

import json
from contextlib import closing
from types import SimpleNamespace

import pytest
import redis
from billiard.exceptions import TimeLimitExceeded, WorkerLostError

from tests.conftest import RedisServer
from tests.workers.fakes import FakeBroker
from workers import tasks
from workers.broker.app import make_app
from workers.broker.client import Broker, queue_snapshot
from workers.config.settings import Settings
from workers.core.records import BULK, ShardJob
from workers.core.task_names import TASK

URL = "memory://public/out/.apf/batches/b1"


@pytest.mark.parametrize("prefix", ["", "apf:"])
def test_what_waits_is_told_shard_by_shard(redis_server: RedisServer, prefix: str) -> None:
    """In the queue and in workers' hands; what is no shard's message is passed over."""
    app = make_app(Settings(broker_url=redis_server.url, broker_key_prefix=prefix, allowed_urls="*"))
    sender = Broker(app)
    for shard in range(3):
        sender.send(ShardJob(batch_url=URL, shard=shard))
    app.send_task(TASK, args=[{"batch_url": URL}], queue=BULK)
    app.send_task("another.task", args=[1], queue=BULK)
    with closing(redis.Redis(port=redis_server.port)) as client:
        client.lpush(f"{prefix}{BULK}", b"no JSON", json.dumps({"headers": {}}))
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        taken = channel.basic_get(BULK, no_ack=False)
        assert taken is not None
        found = queue_snapshot(app)
        assert {name: count for name, count in found.queued.items() if count} == {BULK: 6}
        jobs = [*found.taken, *found.jobs([BULK])]
        assert len(found.taken) == 1
        assert sorted(job.shard for job in jobs) == [0, 1, 2]
        assert {job.batch_url for job in jobs} == {URL}
    app.close()


def test_a_worker_inside_the_command_is_asked_itself() -> None:
    app = make_app(Settings())
    assert (sum(queue_snapshot(app).queued.values()), queue_snapshot(app).taken) == (0, ())
    Broker(app).send(ShardJob(batch_url=URL, shard=0))
    assert queue_snapshot(app).queued[BULK] == 1
    with app.connection_for_write() as connection:
        connection.default_channel.queue_purge(BULK)
    app.close()


class Recorded:
    """Stands where the task's app is, and counts what is sent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: list[ShardJob] = []
        monkeypatch.setattr(tasks, "Broker", lambda app: FakeBroker(self.sent.append))
        self.sender = SimpleNamespace(name=TASK, app=None)


@pytest.mark.parametrize("error", [WorkerLostError("signal 9"), TimeLimitExceeded(1)])
def test_a_shard_that_cost_its_worker_is_sent_again_once(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Celery tells of a hard time limit twice."""
    recorded = Recorded(monkeypatch)
    job = ShardJob(batch_url=URL, shard=4)
    for _ in range(2):
        tasks.after_failure(recorded.sender, task_id=f"id of {error!r}", exception=error, args=[job.encode()])
    assert recorded.sent == [job]


@pytest.mark.parametrize("args", [[], [None], ["x"], [{"shard": -1}], [{}]])
def test_a_malformed_message_is_not_sent_again(monkeypatch: pytest.MonkeyPatch, args: list[object]) -> None:
    recorded = Recorded(monkeypatch)
    tasks.after_failure(recorded.sender, task_id="x", exception=WorkerLostError("signal 9"), args=args)
    assert recorded.sent == []
