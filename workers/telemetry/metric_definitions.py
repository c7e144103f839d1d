"""Definitions of a worker's metrics, kept in files that its processes share: names, help, labels.

Labels are few and bounded: no key, no tenant, no batch. All series are there from the start, so that the first event of
a kind is an increase, too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.multiprocess import mark_process_dead

from workers.core.records import Lane, Outcome
from workers.ledger.callback_state import Result

#: Those of every recipe; one that is not here appears with its first second.
STAGES = (
    "read",
    "decode",
    "detect",
    "align",
    "gradient",
    "transfer",
    "universal",
    "steps",
    "paste",
    "encode",
    "write",
)


@dataclass(frozen=True)
class Measure:
    """The definition of a metric."""

    help: str
    #: Label to the values that are there from the start; none where they are found out later.
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    #: Of a histogram: upper bounds, in the metric's unit.
    buckets: tuple[float, ...] = ()
    #: Of a gauge: how the processes' values become one (`prometheus_client`'s multiprocess modes).
    mode: str = ""


COUNTERS = {
    "apf_photos_total": Measure("Photos in reported shards, by what became of them.", {"outcome": tuple(Outcome)}),
    "apf_faces_total": Measure("Faces found in the photos of reported shards."),
    "apf_weak_faces_total": Measure("Faces in reported shards that a juror still knows."),
    "apf_weak_photos_total": Measure("Photos in reported shards with a face that a juror still knows."),
    "apf_stage_seconds_total": Measure(
        "Seconds in each stage of reported shards, added up over threads.", {"stage": STAGES}
    ),
    "apf_read_bytes_total": Measure("Bytes of photos read from the store, those of unfinished shards included."),
    "apf_written_bytes_total": Measure("Bytes of photos written to the store, those of unfinished shards included."),
    "apf_retries_total": Measure(
        "Shards sent again: the store was down, the worker's process was lost, a time limit ran out, an upload went "
        "ahead, or the batch was resumed while its shards stopped.",
        {"reason": ("store_down", "worker_lost", "time_limit", "overtaken", "resumed")},
    ),
    "apf_decoder_failures_total": Measure(
        "Decoder processes that died over a photo, took too long for it, tried what the cage forbids, or answered what "
        "no decoder does.",
        {"reason": ("died", "timeout", "caged", "invalid")},
    ),
    "apf_callbacks_total": Measure("Tries of callbacks, by what came of them.", {"result": get_args(Result)}),
    "apf_reconciled_shards_total": Measure("Orphaned shards, requeued by the periodic task."),
}

HISTOGRAMS = {
    "apf_shard_duration_seconds": Measure(
        "Seconds from a shard's start to its report.",
        {"lane": get_args(Lane)},
        buckets=(1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600, 1200),
    ),
    "apf_batch_fill_ratio": Measure(
        "Megapixels of a batch of the filter, of those that it may have: low while the filter waits for photos. "
        "Gradient files count as photos that take it as long.",
        buckets=(0.1, 0.25, 0.5, 0.75, 0.9, 1, 1.5),
    ),
    "apf_model_load_seconds": Measure(
        "Seconds to load the models of a recipe into a process.", buckets=(1, 2.5, 5, 10, 20, 40, 80)
    ),
}

GAUGES = {
    "apf_gpu_memory_peak_bytes": Measure(
        "Most GPU memory that a living process has allocated at once; absent without CUDA.",
        {"device": ()},
        mode="livemax",
    ),
    "apf_decoder_cage": Measure(
        "1 at how much of the cage holds a living process's decoders (whole, part, none); absent before any.",
        {"held": ()},
        mode="livemax",
    ),
    "apf_last_reconcile_timestamp_seconds": Measure(
        "When this worker last ended a pass over the open batches, in Unix time; 0: never.", mode="max"
    ),
}


class Measures:
    """One process's metrics. Safe to share between threads."""

    def __init__(self, process: str) -> None:
        # A name that outlives its process: files stay as few as processes, however often these are replaced. Counters
        # go on from where the predecessor was killed; its live gauges are gone.
        values.ValueClass = values.MultiProcessValue(lambda: process)  # type: ignore[no-untyped-call]
        mark_process_dead(process, os.environ["PROMETHEUS_MULTIPROC_DIR"])  # type: ignore[no-untyped-call]
        registry = CollectorRegistry()
        kinds: tuple[tuple[type[MetricWrapperBase], dict[str, Measure]], ...] = (
            (Counter, COUNTERS),
            (Histogram, HISTOGRAMS),
            (Gauge, GAUGES),
        )
        self._series: dict[str, Any] = {}
        for kind, measures in kinds:
            for name, each in measures.items():
                more: dict[str, Any] = {"buckets": each.buckets} if each.buckets else {}
                more |= {"multiprocess_mode": each.mode} if each.mode else {}
                self._series[name] = kind(name, each.help, tuple(each.labels), registry=registry, **more)
                if kind is not Gauge:
                    _make_series(self._series[name], each)

    def series(self, name: str, labels: Mapping[str, str]) -> Any:
        """Return a metric, or its series of these labels."""
        return self._series[name].labels(**labels) if labels else self._series[name]


def _make_series(metric: MetricWrapperBase, measure: Measure) -> None:
    if measure.labels:
        for chosen in product(*measure.labels.values()):
            metric.labels(*chosen)
