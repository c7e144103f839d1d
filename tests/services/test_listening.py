"""A queue that no worker listens to is told, with who did last and when; real workers, a real Redis."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import redis

from producer.cli import worker_check
from tests.command import apf, apf_json
from tests.conftest import RedisServer
from tests.faults.world import ROOT, World, closing_world, photos
from tests.waiting import until
from workers.broker import presence
from workers.broker.queues import all_queues, queue_of
from workers.config.settings import Settings
from workers.ledger.leases import ShardLease

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def world(tmp_path: Path, redis_server: RedisServer) -> Iterator[World]:
    source, out = (tmp_path / "in").as_uri(), (tmp_path / "out").as_uri()
    with closing_world(World(tmp_path, redis_server, source, out, photos(6, special={}))) as made:
        yield made


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with closing(redis.Redis(port=redis_server.port)) as made:
        yield made


def status(world: World, **more: str) -> Any:
    """What `apf status --json` says of the queues that nobody listens to."""
    return apf_json("status", world.destination_url, **{**world.variables, **more})["no_worker"]


def examined(world: World, *, code: int) -> tuple[bool, str]:
    """What `apf doctor` says of workers, and the exit status that it ends with."""
    (found,) = [f for f in apf_json("doctor", code=code, **world.variables) if f["check"] == "queue workers"]
    return found["ok"], found["detail"]


def kill(world: World, signum: signal.Signals) -> None:
    os.killpg(world.workers[-1].pid, signum) if signum is signal.SIGKILL else world.workers[-1].send_signal(signum)
    world.workers[-1].wait(60)


def age(client: redis.Redis, seconds: float) -> None:
    """Have all workers been seen so much longer ago."""
    for member in client.zrange(presence.KEY, 0, -1):
        client.zincrby(presence.KEY, -seconds, member)


def test_a_killed_worker_is_missed_until_it_is_back(world: World, client: redis.Redis) -> None:
    """Doctor, and status as text and as JSON, tell of SIGKILL's victim, and no more once another listens."""
    world.start_worker()
    assert examined(world, code=0) == (True, "1 listen, and every queue has one")
    kill(world, signal.SIGKILL)
    age(client, 300)
    world.submit()
    batch = world.summary().batch
    (missing,) = status(world)
    assert (missing["queues"], missing["stopped"]) == ([queue_of(batch)], False)
    assert missing["worker"] == f"w0@{socket.gethostname()}"
    seen = datetime.fromisoformat(missing["last_seen"])
    assert 290 < time.time() - seen.timestamp() < 360
    told = f"no worker is listening to queue {queue_of(batch)} (w0@{socket.gethostname()} was last seen at "
    text = apf("status", world.destination_url, **world.variables).stderr
    assert f"{told}{seen.astimezone():%H:%M}, 5 minutes ago): start one with `apf worker`" in text
    ok, detail = examined(world, code=1)
    assert not ok
    assert detail.startswith("no worker is listening to queues interactive, bulk (w0@")
    world.start_worker()
    assert status(world) == []
    world.wait(60)
    assert status(world) == []
    assert examined(world, code=0)[0]


def test_a_worker_that_was_stopped_is_said_to_have_stopped(world: World) -> None:
    """At once, and not after the time in which a killed one is missed."""
    world.start_worker()
    kill(world, signal.SIGTERM)
    world.submit()
    (missing,) = status(world)
    assert missing["stopped"]
    assert "stopped at " in examined(world, code=1)[1]


def test_workers_that_keep_no_record_are_asked(world: World, client: redis.Redis) -> None:
    """Those of the version before listen all the same."""
    world.celery_app = "tests.services.silent_celeryapp"
    world.start_worker()
    assert client.zcard(presence.KEY) == 0
    assert examined(world, code=0) == (True, "those of an older version listen, and every queue has one")


def test_a_worker_of_some_queues_leaves_the_others_unheard(world: World) -> None:
    """Bulk work that waits while workers serve uploads alone is told, and lanes by their names."""
    world.start_worker("-Q", ",".join(all_queues(["interactive"])))
    world.submit()
    (missing,) = status(world)
    assert missing == {"queues": [queue_of(world.summary().batch)], "last_seen": None, "worker": None, "stopped": None}
    assert "no worker is listening to queues bulk (none was seen in the last week)" in examined(world, code=1)[1]


def test_a_command_that_waits_says_so_and_that_somebody_came(world: World) -> None:
    """Once each, while it goes on waiting."""
    log = world.folder / "protect.log"
    command = [sys.executable, "-m", "producer", "protect", world.source_url, world.destination_url]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--recipe", "light"], cwd=ROOT, env={**os.environ, **world.variables}, stderr=output
        )
    try:
        until(lambda: "no worker is listening" in log.read_text(), 60, "it is told", log)
        world.start_worker()
        assert process.wait(90) == 0
    finally:
        process.kill()
    assert log.read_text().count("no worker is listening to queue bulk.") == 1


@pytest.mark.parametrize("how", ["refuses", "hangs"])
def test_status_does_without_redis(world: World, how: str) -> None:
    """It says that it does not know, within some seconds, and the rest as ever."""
    world.submit()
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        port = hanging.getsockname()[1] if how == "hangs" else 1
        variables = {**world.variables, "APF_BROKER_URL": f"redis://127.0.0.1:{port}/0"}
        started = time.monotonic()
        result = apf_json("status", world.destination_url, **variables)
        assert time.monotonic() - started < 15
        text = apf("status", world.destination_url, **variables).stderr
    assert (result["no_worker"], result["pending"]) == (None, 6)
    assert "whether a worker is listening is not known" in text
    assert "6 pending" in text


def test_nothing_is_said_of_a_batch_that_somebody_is_at(world: World) -> None:
    """Nor of one that is paused: nobody needs to listen for them."""
    world.submit()
    assert status(world)
    lease = ShardLease(world.ledger, world.batch_id, 0, lease_s=60)
    lease.beat()
    assert status(world) == []
    lease.end()
    apf("pause", world.destination_url, world.batch_id, **world.variables)
    assert status(world) == []


def test_nothing_is_said_where_there_is_no_queue(world: World) -> None:
    """A command that is its own worker asks nobody."""
    world.submit()
    assert status(world, APF_BROKER_URL="") == []


def test_a_record_is_kept_for_a_week_and_of_so_many(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go first, and what others wrote there is passed over."""
    monkeypatch.setattr(presence, "KEPT", 3)
    for number in range(5):
        presence.note(client, "apf:", f"w{number}", ["bulk"])
    assert [one.worker for one in presence.listeners(client, "apf:")] == ["w4", "w3", "w2"]
    key = f"apf:{presence.KEY}"
    assert 0 < client.ttl(key) <= presence.KEPT_S
    client.zincrby(key, -presence.KEPT_S - 1, client.zrange(key, -1, -1)[0])
    client.zadd(key, {"no JSON": time.time(), '{"queues": 1}': time.time()})
    presence.note(client, "apf:", "w3", ["bulk"], stopped=True)
    found = presence.listeners(client, "apf:")
    assert [(one.worker, one.listens, one.stopped) for one in found] == [("w3", False, True)]
    presence.note(client, "apf:", "w3", ["bulk"])
    assert [one.listens for one in presence.listeners(client, "apf:")] == [True]


def test_what_is_unheard_is_told_by_who_heard_it_last(client: redis.Redis) -> None:
    """Queues of one last listener together; few of many are named."""
    presence.note(client, "", "w1@a", ["bulk", "bulk.00.1", "bulk.00.2", "bulk.00.3"], stopped=True)
    presence.note(client, "", "w2@b", ["interactive"])
    queues = ["bulk", "interactive", "bulk.00.1", "bulk.00.2", "bulk.00.3", "bulk.01.0"]
    first, second = presence.unserved(queues, presence.listeners(client, ""))
    assert str(first).startswith("no worker is listening to queues bulk, bulk.00.1, bulk.00.2, 1 more of bulk (w1@a ")
    assert str(second) == "no worker is listening to queue bulk.01.0 (none was seen in the last week)"
    assert first.as_dict()["stopped"] is True


def test_a_redis_that_may_not_be_asked_is_not_known(redis_server: RedisServer, client: redis.Redis) -> None:
    """An ACL without our keys is no proof that nobody listens, and its password is not told."""
    client.execute_command("ACL", "SETUSER", "apf", "on", ">pa55word", "~elsewhere:*", "&*", "+@all")
    settings = Settings(broker_url=f"redis://apf:pa55word@127.0.0.1:{redis_server.port}/0")
    try:
        with pytest.raises(presence.NotKnown) as caught:
            presence.find_unserved_quickly(["bulk"], settings)
    finally:
        client.execute_command("ACL", "DELUSER", "apf")
    assert "pa55word" not in str(caught.value)


def test_who_follows_is_told_once_and_once_that_it_is_over(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis is asked now and then, and silent where it does not know."""
    world.submit()
    missing = [presence.UnservedQueues(("bulk",), None)]
    answers: list[Any] = [[], missing, missing, presence.NotKnown("down"), [], []]

    def look(*_: object) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(worker_check, "find_unserved_quickly", look)
    monkeypatch.setattr(worker_check, "LOOK_EVERY_S", 0)
    notices = worker_check.Notices(world.ledger, world.settings)
    said = [notices(world.summary()) for _ in range(6)]
    assert [bool(text) for text in said] == [False, True, False, False, True, False]
    assert said[4] == "a worker is listening again"
    monkeypatch.setattr(worker_check, "LOOK_EVERY_S", 60)
    assert notices(world.summary()) == ""
