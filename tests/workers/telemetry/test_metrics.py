"""What a process counts survives it, and only what may."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from tests.conftest import _free_ports, _is_free
from workers.telemetry import metric_definitions

ROOT = Path(__file__).parents[3]


def run(code: str, folder: Path, **variables: str) -> int:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder), "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, cwd=folder, timeout=60, check=False).returncode


def test_counters_outlive_a_killed_process_and_its_gauges_do_not(tmp_path: Path) -> None:
    """The next process of the same name counts on in the same files; another name's are added up."""
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    count = (
        "from workers.telemetry import metrics; metrics.start({name!r}); metrics.add('apf_faces_total', 2);"
        "metrics.observe('apf_batch_fill_ratio', 0.3); metrics.put('apf_last_reconcile_timestamp_seconds', 5);"
    )
    gpu = "metrics.put('apf_gpu_memory_peak_bytes', 7, device='cuda:0');"
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(tmp_path))  # type: ignore[no-untyped-call]

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    assert run(count.format(name="child0") + gpu + kill, tmp_path) == -signal.SIGKILL
    assert value("apf_gpu_memory_peak_bytes", device="cuda:0") == 7
    assert run(count.format(name="child0") + kill, tmp_path) == -signal.SIGKILL
    assert value("apf_gpu_memory_peak_bytes", device="cuda:0") is None
    assert value("apf_last_reconcile_timestamp_seconds") == 5
    assert value("apf_faces_total") == 4
    files = set(tmp_path.glob("*.db"))
    assert run(count.format(name="child1"), tmp_path) == 0
    assert (value("apf_faces_total"), value("apf_batch_fill_ratio_count")) == (6, 3)
    assert value("apf_photos_total", outcome="failed") == 0, "there from the start"
    assert len(set(tmp_path.glob("*.db"))) == 2 * len(files)


def test_gpu_memory_is_read_from_torch_where_it_uses_a_gpu(tmp_path: Path) -> None:
    """With a torch that says what a machine with two GPUs would; one that is not used has no series."""
    code = """
import sys
from types import SimpleNamespace as Fake
used = [0, 3000]
cuda = Fake(is_initialized=lambda: True, device_count=lambda: 2, max_memory_allocated=lambda number: used[number])
sys.modules["torch"] = Fake(cuda=cuda)
from workers.telemetry import metrics
from workers.core.records import ShardReport
metrics.start("child0")
facts = {"shard": 0, "stage_seconds": {}, "wall_seconds": 1, "worker": "w", "finished_at": "", "peak_memory_bytes": 0}
metrics.shard_reported(ShardReport(photos=(), **facts), "bulk")
"""
    assert run(code, tmp_path) == 0
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(tmp_path))  # type: ignore[no-untyped-call]
    assert registry.get_sample_value("apf_gpu_memory_peak_bytes", {"device": "cuda:1"}) == 3000
    assert registry.get_sample_value("apf_gpu_memory_peak_bytes", {"device": "cuda:0"}) is None


def test_a_worker_inside_the_command_counts_nothing(tmp_path: Path) -> None:
    """Whatever is set for the workers of a queue: no file, no port."""
    port = _free_ports([0])
    code = """
from workers.broker.app import make_app
from workers.broker.embedded import embedded_worker
from workers.config.settings import load_settings
from workers.telemetry import metrics; from workers.telemetry import worker_exporter as metrics_server
with embedded_worker(make_app(load_settings())):
    assert metrics._measures is None
    import urllib.request
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{load_settings().metrics_port}/healthz")
    except OSError:
        raise SystemExit(7)
"""
    assert run(code, tmp_path, APF_METRICS_PORT=str(port)) == 7
    assert list(tmp_path.iterdir()) == []
    assert _is_free(port)


@pytest.mark.parametrize(
    "table", [metric_definitions.COUNTERS, metric_definitions.HISTOGRAMS, metric_definitions.GAUGES], ids=len
)
def test_labels_are_bounded(table: dict[str, metric_definitions.Measure]) -> None:
    """Nothing whose values a user chooses is a label."""
    labels = {label for measure in table.values() for label in measure.labels}
    assert labels <= {"outcome", "stage", "reason", "result", "lane", "device", "held"}
