"""What worker and exporter tell Prometheus, asked of real processes on a real queue."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import RedisServer, _free_ports
from tests.faults.world import ROOT, World, closing_world, photos, until

pytestmark = pytest.mark.timeout(240)

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def fetch(port: int, path: str = "/metrics") -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


class Scrape:
    """The numbers of one scrape."""

    def __init__(self, port: int) -> None:
        status, self.text = fetch(port)
        assert status == 200
        self.families = list(text_string_to_metric_families(self.text))
        self._samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
        }

    def get(self, name: str, **labels: str) -> float:
        return self._samples[name, frozenset(labels.items())]

    def by(self, name: str, label: str) -> dict[str, float]:
        return {dict(own)[label]: value for (each, own), value in self._samples.items() if each == name}

    def names(self) -> set[str]:
        return {name for name, _ in self._samples}


@pytest.fixture
def world(tmp_path: Path, redis_server: RedisServer) -> Iterator[World]:
    port = str(_free_ports([0]))
    source, out = (tmp_path / "in").as_uri(), (tmp_path / "out").as_uri()
    variables = {"APF_METRICS_PORT": port, "TMPDIR": str(tmp_path), "APF_RECONCILE_EVERY_S": "1"}
    with closing_world(World(tmp_path, redis_server, source, out, photos(12), variables)) as made:
        yield made


def port_of(world: World) -> int:
    return int(world.variables["APF_METRICS_PORT"])


@contextmanager
def exporting(world: World, **more: str) -> Iterator[int]:
    """`apf exporter` on the world's queue and store; its port."""
    port = _free_ports([0])
    with (world.folder / "exporter.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "producer", "exporter", "--port", str(port)],
            cwd=ROOT, env={**os.environ, **world.variables, "APF_EXPORTER_EVERY_S": "0", **more}, stdout=log, stderr=log,
        )  # fmt: skip

    def answers() -> bool:
        with suppress(OSError):
            return fetch(port, "/healthz")[0] == 200
        return False

    try:
        until(answers, 30, "the exporter answers", world.folder / "exporter.log")
        yield port
    finally:
        process.terminate()
        assert process.wait(20) == 0


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
