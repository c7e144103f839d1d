"""Workers do not talk to each other: Redis would hand on each one's word to all."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
import redis

from tests.benchmarks.processes import APF, await_that, running
from tests.conftest import RedisServer

pytestmark = pytest.mark.timeout(180)


def test_workers_hear_commands_and_not_each_other(tmp_path: Path, redis_server: RedisServer) -> None:
    """Of two `apf worker` processes each subscribes to the channel of remote control alone, and looks for no others."""
    variables = {"APF_BROKER_URL": redis_server.url, "APF_ALLOWED_URLS": tmp_path.as_uri()}
    logs = [tmp_path / f"{name}.log" for name in ("one", "two")]
    with (
        running(APF, logs[0], variables, "worker", "-n", "one@%h"),
        running(APF, logs[1], variables, "worker", "-n", "two@%h"),
        closing(redis.Redis(port=redis_server.port)) as client,
    ):
        await_that(lambda: all(b" ready." in log.read_bytes() for log in logs), 90, "two workers are ready")

        def channels() -> list[int]:
            """Of each connection that listens."""
            counts = [int(one["sub"]) + int(one["psub"]) for one in client.client_list(_type="pubsub")]
            return [count for count in counts if count]

        await_that(lambda: len(channels()) == 2, 30, "both listen")
        assert channels() == [1, 1]
        assert not any("mingle" in log.read_text() for log in logs)
