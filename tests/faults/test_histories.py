"""Random histories with real kills: whatever happens in whatever order, each photo ends with one correct outcome.

Each is a worker or two, a Redis and a folder. A failing one prints its steps; APF_SEEDS="7 8" plays those again.
"""

from __future__ import annotations

import os
import random
import signal
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.conftest import RedisServer
from tests.faults.strikes import SOAK, flush_redis, kill_child, restart_redis
from tests.faults.world import World, photos
from workers.broker.client import Broker, BrokerError
from workers.core.records import ShardJob
from workers.ledger.batch_ledger import STOPS, Stop

#: Histories of one seed.
HISTORIES = 10 if SOAK else 2
#: The soak draws others each time; the short form is to fail for changes alone.
FIRST = random.Random(os.environ.get("PYTEST_XDIST_TESTRUNUID")).randrange(10**6) if SOAK else 0
SEEDS = [int(seed) for seed in os.environ.get("APF_SEEDS", "").split()] or range(FIRST, FIRST + (20 if SOAK else 1))

pytestmark = pytest.mark.timeout(60 + 120 * HISTORIES)


class History(RuleBasedStateMachine):
    """What platforms live through. The model is `world.expected`: outcomes follow from the photos alone."""

    redis: RedisServer

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="apf-history-")
        self.world: World | None = None

    @initialize(count=st.integers(1, 14), deadly=st.booleans())
    def begin(self, count: int, deadly: bool) -> None:
        folder = Path(self.folder.name)
        special = {0: "deadly" if deadly else "face", 2: "empty", 4: "corrupt"}
        variables = {"CHEAP_SECONDS": "0.05", "CHEAP_REPORT_SECONDS": "0.1"}
        source, out = (folder / "in").as_uri(), (folder / "out").as_uri()
        flush_redis_of(self.redis)
        self.world = World(folder, self.redis, source, out, photos(count, special=special), variables)
        self.world.start_worker()
        self.world.submit()

    @property
    def w(self) -> World:
        assert self.world is not None
        return self.world

    @precondition(lambda self: self.world and len(self.world.workers) < 4)
    @rule()
    def another_worker(self) -> None:
        self.w.start_worker()

    @rule()
    def worker_child_dies(self) -> None:
        kill_child(self.w)

    @precondition(lambda self: self.world and len(self.world.workers) < 6)
    @rule(how=st.sampled_from([signal.SIGKILL, signal.SIGTERM, signal.SIGQUIT]))
    def worker_ends_and_another_starts(self, how: signal.Signals) -> None:
        self.w.workers[-1].send_signal(how)
        self.w.workers[-1].wait(60)
        self.w.start_worker()

    @rule()
    def redis_restarts(self) -> None:
        restart_redis(self.w)

    @rule()
    def redis_forgets(self) -> None:
        flush_redis(self.w)

    @rule(numbers=st.lists(st.integers(0, 99), max_size=4))
    def messages_come_twice(self, numbers: list[int]) -> None:
        shards = self.w.ledger.read_batch(self.w.batch_id).shards
        for number in numbers:
            with suppress(BrokerError):
                url = self.w.ledger.batch_url(self.w.batch_id)
                Broker(self.w.app).send(ShardJob(batch_url=url, shard=number % shards))

    @rule(how=st.sampled_from(STOPS))
    def stopped(self, how: Stop) -> None:
        self.w.ledger.stop(self.w.batch_id, how)

    @precondition(lambda self: self.world and self.world.ledger.stopped(self.world.batch_id))
    @rule()
    def resumed(self) -> None:
        with suppress(BrokerError):
            self.w.resume()

    @rule(kind=st.sampled_from(["plan", "reports"]), number=st.integers(0, 99), kept=st.floats(0, 1, exclude_max=True))
    def a_record_is_torn(self, kind: str, number: int, kept: float) -> None:
        """As by a store that lost the end of an object."""
        batch = self.w.ledger.read_batch(self.w.batch_id)
        last = batch.shards if batch.first_retry is None else batch.first_retry
        key = self.w.ledger.key(batch.id, kind, f"{number % last:05}.jsonl")
        if record := self.w.ledger.read(key):
            self.w.ledger.store.put(key, record[: int(len(record) * kept)])
        if not self.w.is_registered():  # nobody looks at a batch that was done, until somebody asks for it
            self.w.resume()

    @rule()
    def a_while_passes(self) -> None:
        with suppress(pytest.fail.Exception):
            self.w.wait(2)

    @rule()
    def all_ends_and_what_failed_is_retried(self) -> None:
        self.go_on()
        self.w.wait(120)
        self.w.check()
        self.w.retry()

    def go_on(self) -> None:
        """A stopped batch stays stopped until somebody resumes it, whatever was killed meanwhile."""
        if self.w.ledger.stopped(self.w.batch_id):
            self.w.resume()

    def teardown(self) -> None:
        try:
            if self.world:
                self.go_on()
                self.world.wait(120)
                self.world.check()
        finally:
            if self.world:
                self.world.close()
            self.folder.cleanup()


def flush_redis_of(server: RedisServer) -> None:
    if server.process is None or server.process.poll() is not None:
        server.start()
    import redis  # noqa: PLC0415

    with redis.Redis(port=server.port) as client:
        client.flushall()


@pytest.mark.parametrize("seed", SEEDS)
def test_histories(redis_server: RedisServer, seed: int) -> None:
    History.redis = redis_server
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        seeded(seed)(type("Seeded", (History,), {})),
        settings=settings(
            max_examples=HISTORIES,
            stateful_step_count=6,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
