"""Count a worker's metrics. Does nothing unless the worker serves them (`workers.telemetry.worker_exporter`).

Call sites name a metric as Prometheus shows it; `workers.telemetry.metric_definitions` says what each one means.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from workers.core.records import Lane, Outcome, ShardReport

if TYPE_CHECKING:
    from workers.telemetry.metric_definitions import Measures

_measures: Measures | None = None


def start(process: str) -> None:
    """From now on this process counts, into files of its own below PROMETHEUS_MULTIPROC_DIR.

    Args:
        process: no other living process of the worker may have the same name. One that takes a dead one's name counts
            on from where that one was.
    """
    global _measures  # noqa: PLW0603  one a process, as are the files
    from workers.telemetry.metric_definitions import Measures  # noqa: PLC0415  a worker without metrics does without the library

    _measures = Measures(process)


def add(name: str, amount: float = 1, **labels: str) -> None:
    """Add to a counter."""
    if _measures:
        _measures.series(name, labels).inc(amount)


def observe(name: str, value: float, **labels: str) -> None:
    """Add one value to a histogram."""
    if _measures:
        _measures.series(name, labels).observe(value)


def put(name: str, value: float, **labels: str) -> None:
    """Set a gauge."""
    if _measures:
        _measures.series(name, labels).set(value)


def shard_reported(report: ShardReport, lane: Lane) -> None:
    """Count a shard whose report is written: what is counted here is what the ledger says."""
    if not _measures:
        return
    totals = report.totals
    for outcome in Outcome:
        add("apf_photos_total", getattr(totals, outcome.value), outcome=outcome.value)
    add("apf_faces_total", totals.faces)
    add("apf_weak_faces_total", totals.weak_faces)
    add("apf_weak_photos_total", totals.weak_photos)
    for stage, seconds in report.stage_seconds.items():
        add("apf_stage_seconds_total", seconds, stage=stage)
    observe("apf_shard_duration_seconds", report.wall_seconds, lane=lane)
    _note_gpu_memory()


def _note_gpu_memory() -> None:
    torch = sys.modules.get("torch")  # a process without it uses no GPU
    if torch is None or not torch.cuda.is_initialized():
        return
    for number in range(torch.cuda.device_count()):
        if peak := torch.cuda.max_memory_allocated(number):
            put("apf_gpu_memory_peak_bytes", peak, device=f"cuda:{number}")
