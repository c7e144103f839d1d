"""What a worker tells Prometheus: a real worker on a real queue, killed now and then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.faults.world import ROOT, World
from tests.services.watched import Scrape, exporting, fetch, port_of, program, watched_world
from tests.waiting import until

__all__ = ["watched_world"]  # the fixture `world`

pytestmark = pytest.mark.timeout(240)


def test_a_workers_numbers_are_the_reports_sums_whatever_child_was_killed(world: World) -> None:
    """Counters go on where the dead child was; what it had in hand is in nobody's hands."""
    worker = world.start_worker(CHEAP_SECONDS="0.15")
    world.submit()
    until(world.is_mid_shard, 60, "mid-shard", world.log)
    assert Scrape(port_of(world)).get("apf_shards_in_progress") == 1
    until(lambda: world.summary().reported_shards >= 1, 60, "a shard is done", world.log)
    until(world.is_mid_shard, 60, "mid-shard again", world.log)
    os.kill(world.child(), signal.SIGKILL)
    world.wait()
    until(lambda: Scrape(port_of(world)).get("apf_shards_in_progress") == 0, 20, "nothing in hand", world.log)
    scrape, summary = Scrape(port_of(world)), world.summary()
    assert scrape.by("apf_photos_total", "outcome") == {
        outcome: getattr(summary, outcome) for outcome in ("protected", "no_face", "skipped", "failed")
    }
    assert scrape.get("apf_faces_total") == summary.faces > 0
    lanes = scrape.by("apf_shard_duration_seconds_count", "lane")
    assert lanes == {"bulk": summary.batch.shards, "interactive": 0}
    assert sum(scrape.by("apf_shard_duration_seconds_sum", "lane").values()) == pytest.approx(summary.wall_seconds)
    stages = scrape.by("apf_stage_seconds_total", "stage")
    assert {name: stages[name] for name in summary.stage_seconds} == pytest.approx(summary.stage_seconds)
    assert scrape.by("apf_retries_total", "reason")["worker_lost"] == 1
    assert scrape.get("apf_read_bytes_total") >= sum(map(len, world.photos.values()))
    assert scrape.get("apf_written_bytes_total") >= summary.totals.bytes_out > 0
    assert scrape.get("apf_batch_fill_ratio_count") > 0
    assert scrape.get("apf_worker_processes") == 1
    folder = next(world.folder.glob("apf-metrics-*"))
    assert {path.stem.split("_")[-1] for path in folder.glob("*.db")} == {"parent", "child0"}, (
        "one set for all children"
    )
    worker.terminate()
    worker.wait(30)
    assert not folder.exists(), "a worker that ends leaves no files"


def test_a_worker_is_healthy_once_it_listens_and_serves_nothing_else(world: World) -> None:
    """Neither other paths nor other methods."""
    world.start_worker()
    port = port_of(world)
    assert fetch(port, "/healthz") == (200, "OK\n")
    assert fetch(port, "/")[0] == 404
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", data=b"x", method="POST")
    with pytest.raises(urllib.error.HTTPError, match="405") as refused:
        urllib.request.urlopen(request, timeout=20)
    refused.value.close()


def test_a_port_that_is_taken_is_named_and_the_worker_does_not_start(world: World) -> None:
    """The second worker of a machine needs a port of its own, and its user learns that at once."""
    world.start_worker()
    command = [sys.executable, "-m", "celery", "-A", "tests.faults.celeryapp", "worker"]
    second = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **world.variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert second.returncode == 2
    assert "apf: metrics cannot be served on 127.0.0.1" in second.stderr
    assert "APF_METRICS_PORT" in second.stderr
    assert "Traceback" not in second.stderr


def test_a_worker_without_a_port_counts_nothing(world: World) -> None:
    """No library is loaded for it, and no file is written."""
    world.start_worker(APF_METRICS_PORT="0")
    world.submit()
    world.wait()
    assert list(world.folder.glob("apf-metrics-*")) == []
    maps = Path(f"/proc/{world.child()}/maps").read_text()
    assert "apf-metrics" not in maps
    code = (
        "import sys, workers.tasks, workers.execution.shard_pipeline, "
        "workers.decoding.decoder_pool; print('prometheus_client' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


def test_names_follow_prometheus_conventions(world: World) -> None:
    """By `promtool check metrics`, of both endpoints."""
    command = [program("promtool"), "check", "metrics"]
    world.start_worker()
    with exporting(world) as port:
        for text in (Scrape(port_of(world)).text, Scrape(port).text):
            ran = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
            assert (ran.returncode, ran.stdout + ran.stderr) == (0, "")
