"""A batch's end, added up report by report, beside `BatchMonitor`, which holds every photo."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import pytest

from tests.memory_store import MemoryStore
from tests.workers.execution.test_shard_pipeline import make_batch
from workers.callbacks.payload import batch_done
from workers.core.records import Batch, Outcome, PhotoRef, PhotoReport, ShardReport
from workers.ledger.batch_ledger import Ledger, open_ledger
from workers.status.batch_status import BatchMonitor
from workers.status.final_status import final_status


@pytest.fixture
def ledger() -> Ledger:
    MemoryStore("memory://public").clear()
    return open_ledger("memory://public/out")


def photo(number: int, outcome: Outcome = Outcome.protected, attempts: int = 1) -> PhotoReport:
    reason = "it is torn" if outcome is Outcome.failed else None
    return PhotoReport(key=f"{number:06}.jpg", etag="x", outcome=outcome, reason=reason, faces=2, attempts=attempts)


def report(ledger: Ledger, shard: int, *photos: PhotoReport) -> None:
    ledger.write_report(
        "b1",
        ShardReport(
            shard=shard,
            photos=photos,
            stage_seconds={"read": 0.5, f"only-{shard}": 1},
            wall_seconds=1.5,
            worker="w",
            finished_at="",
            peak_memory_bytes=1000 - shard,
        ),
    )


def written(ledger: Ledger, **facts: object) -> Batch:
    batch = make_batch("memory://source/in", "memory://public/out").model_copy(update={"planned": True, **facts})
    ledger.write_batch(batch)
    return batch


def retried_twice(ledger: Ledger) -> Batch:
    """Six photos, of which one was never reported; of three that failed, two were retried, one of them once more."""
    failed = Outcome.failed
    report(ledger, 0, photo(0), photo(3, failed, attempts=2), photo(1, failed))
    report(ledger, 1, photo(4, failed, attempts=3), photo(2, Outcome.skipped))
    report(ledger, 2, photo(3, failed, attempts=2), photo(1))
    report(ledger, 3, photo(3, failed, attempts=4))
    for shard, numbers in [(2, (3, 1)), (3, (3,))]:
        refs = [PhotoRef(key=photo(n).key, size=1, etag="x") for n in numbers]
        ledger.write_plan("b1", shard, refs)
    return written(ledger, shards=4, photos=6, first_retry=2)


def test_it_ends_as_the_watch_says(ledger: Ledger) -> None:
    """With retries of retries, a photo that is missing, and attempts over all shards."""
    batch = retried_twice(ledger)
    ended = final_status(ledger, batch, most_failures=10, few_photos=10)
    watch = BatchMonitor(ledger, "b1")
    assert ended is not None
    assert ended.summary() == watch.poll()
    assert ended.photos == watch.photos()
    assert [(f.key, f.attempts) for f in ended.summary().failures] == [("000003.jpg", 8), ("000004.jpg", 3)]
    assert ended.summary().missing == 1


def test_the_first_failures_are_kept_by_key(ledger: Ledger) -> None:
    """And no photos of a larger batch; sums are of all."""
    batch = retried_twice(ledger)
    ended = final_status(ledger, batch, most_failures=1, few_photos=5)
    assert ended is not None
    whole = BatchMonitor(ledger, "b1").poll()
    assert ended.summary() == replace(whole, failures=whole.failures[:1])
    assert ended.photos == []


def test_what_is_not_done_has_no_end(ledger: Ledger) -> None:
    for facts in ({"planned": False}, {"shards": 2}):
        report(ledger, 0, photo(0))
        assert (
            final_status(ledger, written(ledger, photos=1, **{"shards": 1, **facts}), most_failures=1, few_photos=1)
            is None
        )
    batch = written(ledger, photos=1, shards=1)
    ledger.stop("b1", "paused")
    assert final_status(ledger, batch, most_failures=1, few_photos=1) is None


def test_memory_does_not_grow_with_the_batch(ledger: Ledger) -> None:
    """What a body of four times as many photos takes beside them."""

    def peak_bytes(shards: int) -> int:
        for shard in range(shards):
            report(ledger, shard, *(photo(shard * 50 + n, Outcome.failed) for n in range(50)))
        batch = written(ledger, shards=shards, photos=50 * shards)
        tracemalloc.start()
        try:
            assert batch_done(ledger, batch)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak_bytes(400) < 1.3 * peak_bytes(100)
