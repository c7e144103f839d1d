"""The benchmarks of the queue, in short: what they count is what the code under test did."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.benchmarks.bench_planning import Bench, report_all
from tests.benchmarks.listing import FakeListing, key_of, number_of
from tests.conftest import RedisServer

SHARD = 128


def test_a_large_batch_costs_two_requests_a_shard_and_a_message(redis_server: RedisServer, tmp_path: Path) -> None:
    """Planning writes each plan once and looks for a report once; what is asked afterwards costs as little."""
    bench = Bench(tmp_path, redis_server, 70 * SHARD, 0.0)
    batch = bench.plan()
    assert (batch.planned, batch.photos, batch.shards) == (True, 70 * SHARD, 70)
    assert sum(bench.queue().values()) == 70
    assert sum(bench.steps[0].requests.values()) <= 2 * 70 + 4 * 10, "and batch and forgotten once a stretch of shards"
    bench.ask("none reported")
    report_all(bench.ledger, batch)
    bench.ask("all reported")
    asked = {step.name: Counter(step.requests).total() for step in bench.steps[1:]}
    assert asked["status, none reported"] <= 7, "one of them for what was left out"
    assert asked["resume, none reported"] <= 70 + 10
    assert asked["status, all reported"] <= 70 + 6
    assert sum(bench.queue().values()) == 2 * 70, "resumed once, and not once all was reported"


def test_a_made_up_listing_is_listed_on_from_any_key() -> None:
    """Its keys ascend, and are the same ones whenever they are listed."""
    listing = FakeListing(2500, "memory://made-up")
    infos = list(listing.list())
    assert [info.key for info in infos] == sorted(info.key for info in infos) == [key_of(n) for n in range(2500)]
    assert list(listing.list(start_after=key_of(1234))) == infos[1235:]
    assert number_of(key_of(1234)) == 1234
