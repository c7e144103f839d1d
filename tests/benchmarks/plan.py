"""`python -m tests.benchmarks.plan [--days 7] ...`: what 10^9 photos need, or others, by the formulas of docs/scale.md.

Each assumption is an option, which then holds for all kinds of workers; `--help` lists them. What is computed is no
measurement: the seconds a photo are (on CPU), the GPU's are not.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from tests.benchmarks.record import table

DAY_S, HOUR_S = 86_400.0, 3_600.0


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What the plan rests on. Prices are of 2025, in US dollars, as a large cloud lists them without any discount."""

    photos: float = 1e9
    #: In which all shall be done.
    days: float = 30.0
    #: Of one worker at one photo, and the share of its time that it is at one.
    photo_s: float = 3.2
    efficiency: float = 0.9
    cores_per_worker: float = 2.0
    cores_per_machine: float = 64.0
    worker_usd_per_hour: float = 0.08
    megapixels: float = 12.0
    #: Megabytes of a photo, and again of its output.
    photo_mb: float = 4.0
    shard_photos: float = 128.0
    shard_megapixels: float = 384.0
    #: The steps of `standard`, which count when shards are cut (`workers.batches.plan.work_of_steps`).
    steps_megapixels: float = 5.0
    #: APF_MAX_BATCH_PHOTOS, and how many batches are planned and queued at a time.
    batch_photos: float = 1e7
    batches_at_a_time: float = 2.0
    #: Requests to the store: of a photo (GET; PUT), of a shard, and of a worker at each progress mark.
    photo_reads: float = 1.0
    photo_writes: float = 1.0
    shard_reads: float = 9.0
    shard_writes: float = 4.0
    mark_reads: float = 2.0
    mark_writes: float = 1.0
    progress_interval_s: float = 5.0
    #: Objects that a shard leaves in the ledger, and bytes there of each photo.
    shard_objects: float = 2.0
    ledger_bytes_per_photo: float = 300.0
    #: Redis: bytes of a waiting shard; processor seconds of a shard, and each second of each worker: for being there,
    #: and for looking whether an upload waits, at most four times (`workers.tasks.LOOK_FOR_UPLOADS_S`), 70 us each.
    redis_bytes_per_shard: float = 1250.0
    redis_s_per_shard: float = 0.8e-3
    redis_s_per_worker_s: float = 0.6e-3
    usd_per_million_writes: float = 5.0
    usd_per_million_reads: float = 0.4
    usd_per_tb_month: float = 23.0


#: Kinds of workers: a core's seconds are measured, the GPU's assumed, from figures 1 and 4 of what is to be reached.
KINDS = {
    "1 MP, CPU": {"megapixels": 1.0, "photo_s": 0.6, "photo_mb": 0.4},
    "12 MP, CPU": {},
    "12 MP, GPU (computed)": {"photo_s": 1 / 64, "cores_per_worker": 16.0, "worker_usd_per_hour": 4.0},
}


def plan(given: Assumptions) -> dict[str, float]:
    """What the photos need, by name with unit."""
    shard_photos = min(given.shard_photos, given.shard_megapixels / (given.megapixels + given.steps_megapixels))
    shards = given.photos / shard_photos
    busy_s = given.photos * given.photo_s / given.efficiency
    workers = math.ceil(busy_s / (given.days * DAY_S))
    marks = busy_s / given.progress_interval_s
    writes = given.photos * given.photo_writes + shards * given.shard_writes + marks * given.mark_writes
    reads = given.photos * given.photo_reads + shards * given.shard_reads + marks * given.mark_reads
    rate = given.photos / (given.days * DAY_S)
    queued = min(given.photos, given.batches_at_a_time * given.batch_photos) / shard_photos
    redis = rate / shard_photos * given.redis_s_per_shard + workers * given.redis_s_per_worker_s
    return {
        "photos/s": rate,
        "workers": workers,
        "machines": math.ceil(workers * given.cores_per_worker / given.cores_per_machine),
        "batches": math.ceil(given.photos / given.batch_photos),
        "requests a photo": (reads + writes) / given.photos,
        "writes/s": writes / (given.days * DAY_S),
        "reads/s": reads / (given.days * DAY_S),
        "traffic each way, Gbit/s": rate * given.photo_mb * 8 / 1000,
        "ledger, million objects": shards * given.shard_objects / 1e6,
        "ledger, TB": given.photos * given.ledger_bytes_per_photo / 1e12,
        "Redis, GB": queued * given.redis_bytes_per_shard / 1e9,
        "Redis, share of a core": redis,
        "computing, USD": busy_s / HOUR_S * given.worker_usd_per_hour,
        "requests, USD": writes / 1e6 * given.usd_per_million_writes + reads / 1e6 * given.usd_per_million_reads,
        "keeping the outputs, USD a month": given.photos * given.photo_mb / 1e6 * given.usd_per_tb_month,
    }


def rows(changes: dict[str, float]) -> list[dict[str, object]]:
    """One line for each figure, with a column for each kind of worker."""
    plans = {kind: plan(replace(Assumptions(**own), **changes)) for kind, own in KINDS.items()}
    names = next(iter(plans.values()))
    return [{"": name, **{kind: _short(found[name]) for kind, found in plans.items()}} for name in names]


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2g}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for one in fields(Assumptions):
        option = f"--{one.name.replace('_', '-')}"
        parser.add_argument(option, type=float, default=argparse.SUPPRESS, help=f"default: {one.default:g}")
    print(table(rows(vars(parser.parse_args(arguments)))))


if __name__ == "__main__":
    main()
