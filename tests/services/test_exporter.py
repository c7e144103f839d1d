"""What `apf exporter` tells Prometheus of a real queue and a real ledger."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from tests.faults.world import ROOT, World
from tests.services.watched import Scrape, exporting, watched_world
from tests.waiting import until
from workers.ledger.leases import attempts_at

__all__ = ["watched_world"]  # the fixture `world`

pytestmark = pytest.mark.timeout(240)


def test_the_exporter_tells_what_waits_and_how_far_batches_are(world: World) -> None:
    """Nobody works at first; then a worker does, and is found at it; then nothing is left."""
    world.submit()
    shards = world.summary().batch.shards
    assert shards == 3
    with exporting(world) as port:
        time.sleep(1.1)
        before = Scrape(port)
        assert before.by("apf_queued_shards", "lane") == {"bulk": shards, "interactive": 0}
        assert before.get("apf_taken_shards") == 0
        assert before.by("apf_shards_open", "lane") == {"bulk": shards, "interactive": 0}
        assert before.by("apf_photos_pending", "lane") == {"bulk": 12, "interactive": 0}
        assert before.by("apf_open_batches", "state") == {"running": 1, "reported": 0, "paused": 0, "cancelled": 0}
        assert before.get("apf_oldest_waiting_seconds", lane="bulk") > 1
        assert before.get("apf_lane_idle_seconds", lane="bulk") > 1
        assert before.get("apf_lane_idle_seconds", lane="interactive") == 0
        assert before.by("apf_exporter_up", "target") == {"redis": 1, "store": 1}
        world.start_worker(CHEAP_SECONDS="0.5")
        until(lambda: world.summary().reported_shards == 1, 60, "a shard is done", world.log)
        until(lambda: attempts_at(world.ledger, world.batch_id), 20, "a shard is in hand", world.log)
        during = Scrape(port)
        assert during.get("apf_shards_open", lane="bulk") == shards - 1
        assert during.get("apf_photos_pending", lane="bulk") == 8
        assert during.get("apf_oldest_waiting_seconds", lane="bulk") < 2
        world.wait()

        def closed() -> bool:
            world.reconcile()
            return not any(Scrape(port).by("apf_open_batches", "state").values())

        until(closed, 20, "closed", world.log, every_s=0.3)
        after = Scrape(port)
        assert after.get("apf_photos_pending", lane="bulk") == 0
        assert after.get("apf_oldest_waiting_seconds", lane="bulk") == 0


def test_stopped_batches_are_counted_and_call_for_no_workers(world: World) -> None:
    world.submit()
    world.ledger.stop(world.batch_id, "paused")
    with exporting(world) as port:
        scrape = Scrape(port)
    assert scrape.by("apf_open_batches", "state")["paused"] == 1
    assert scrape.get("apf_shards_open", lane="bulk") == 0
    assert scrape.get("apf_oldest_waiting_seconds", lane="bulk") == 0


def test_a_service_that_is_down_shows_and_leaves_no_old_numbers(world: World) -> None:
    """Redis is away, then the folder of the ledger; each is told apart, and each comes back."""
    world.submit()
    with exporting(world) as port:
        assert Scrape(port).by("apf_exporter_up", "target") == {"redis": 1, "store": 1}
        world.redis.kill()
        try:
            # The queue's patience is longer than a scrape's: its answer comes with a later one.
            until(lambda: Scrape(port).get("apf_exporter_up", target="redis") == 0, 90, "Redis is missed", world.log)
            down = Scrape(port)
            assert down.get("apf_exporter_up", target="store") == 1
            assert "apf_queued_shards" not in down.names()
            assert "apf_shards_open" in down.names()
            assert down.get("apf_exporter_failures_total", target="redis") >= 1
        finally:
            world.redis.start()
        until(lambda: Scrape(port).get("apf_exporter_up", target="redis") == 1, 90, "Redis is back", world.log)
        (world.folder / "out").rename(world.folder / "away")
        until(lambda: Scrape(port).get("apf_exporter_up", target="store") == 0, 30, "the store is missed", world.log)
        assert Scrape(port).get("apf_exporter_up", target="redis") == 1


@pytest.mark.rotating
@pytest.mark.parametrize(
    ("variables", "cure"),
    [({}, "APF_BROKER_URL"), ({"APF_BROKER_URL": "redis://127.0.0.1", "APF_ALLOWED_URLS": "*"}, "APF_LEDGER_URL")],
)
def test_an_exporter_that_could_find_nothing_does_not_start(variables: dict[str, str], cure: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "producer", "exporter"],
        cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 2
    assert cure in ran.stderr


def test_its_first_line_is_in_the_logs_format(world: World) -> None:
    """JSON from the first line on: what reads the log knows no other."""
    with exporting(world, APF_LOG_FORMAT="json"):
        lines = (world.folder / "exporter.log").read_text().splitlines()
    (line,) = [json.loads(line) for line in lines]
    assert (line["level"], line["logger"]) == ("INFO", "producer.cli.exporter")
    assert "/metrics" in line["message"]
