"""From a message to a report: what the task does, without Celery around it."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from apf.errors import DetectorError, DetectorUnreachable
from tests.memory_store import MemoryStore
from tests.workers.execution.test_shard_pipeline import make_batch
from tests.workers.fakes import FakeEngine
from workers.config.settings import Settings
from workers.core.records import Outcome, PhotoRef, ShardJob, Totals
from workers.errors import StoreUnavailable, TornPlan
from workers.execution.run_shard import ShardIncomplete, ShardResumed, ShardStopped, report_lost_shard, run_shard
from workers.execution.shard_pipeline import ShardRunner
from workers.ledger.batch_ledger import STOPS, Ledger, Stop, open_ledger
from workers.ledger.leases import ShardLease, attempts_at
from workers.status.batch_status import BatchMonitor
from workers.store import open_store


class Planned:
    """A batch of one shard in memory."""

    def __init__(self, name: str, *photos: bytes) -> None:
        self.source, destination = open_store(f"memory://{name}-in"), f"memory://{name}-out"
        self.destination = open_store(destination)
        for index, data in enumerate(photos):
            self.source.put(f"{index:03}.jpg", data)
        self.ledger: Ledger = open_ledger(destination)
        self.batch = make_batch(self.source.url, destination, planned=True, shards=1, photos=len(photos))
        self.ledger.write_batch(self.batch)
        refs = [PhotoRef(key=i.key, etag=i.etag, size=i.size) for i in self.source.list()]
        self.ledger.write_plan("b1", 0, refs)
        self.job = ShardJob(batch_url=self.ledger.batch_url("b1"), shard=0)
        self.engine = FakeEngine()

    def run(self, settings: Settings | None = None, **options: Any) -> Any:
        run = run_shard(self.job, settings or Settings(), load=lambda *_: self.engine, **options)
        return run.totals if run else None


def test_a_shard_is_reported_with_totals_stages_and_memory() -> None:
    planned = Planned("run-report", b"one", b"empty", b"corrupt")
    totals = planned.run()
    assert (totals.photos, totals.protected, totals.no_face, totals.failed) == (3, 1, 1, 1)
    report = planned.ledger.read_report("b1", 0)
    assert report is not None
    assert {"read", "decode", "gradient", "encode", "write"} <= set(report.stage_seconds)
    assert report.peak_memory_bytes > 10 * 2**20


@pytest.mark.parametrize("anew", [False, True])
def test_a_batch_that_is_taken_back_meanwhile_gets_no_report(anew: bool) -> None:
    """Another batch under its id would take the report for its own shard's."""
    planned = Planned(f"run-taken-back-{anew}", b"one")

    class TakenBack(FakeEngine):
        def protect(self, photos: Any, clock: Any) -> Any:
            planned.ledger.forget_batch("b1")
            if anew:
                planned.ledger.write_batch(planned.batch.model_copy(update={"created_at": "2026-02-02T00:00:00+00:00"}))
            return super().protect(photos, clock)

    planned.engine = TakenBack()
    assert planned.run() is None
    assert planned.ledger.read_report("b1", 0) is None
    assert attempts_at(planned.ledger, "b1") == []


def test_a_try_counts_until_its_report_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever dies while reporting is missed like everybody else, not only once Redis delivers the message again."""
    planned = Planned("run-reporting", b"one")
    tries: list[int] = []

    def dies(ledger: Ledger, batch_id: str, report: object) -> None:
        tries.append(len(attempts_at(ledger, batch_id, 0)))
        raise SystemExit

    monkeypatch.setattr(Ledger, "write_report", dies)
    with pytest.raises(SystemExit):
        planned.run()
    assert tries == [1]


def test_a_shard_that_was_resumed_while_it_stopped_runs_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """`apf resume` found it running, and sent it to nobody else."""
    planned = Planned("run-resumed", b"one")

    def stopped_for_a_moment(runner: ShardRunner, refs: object) -> None:
        raise ShardStopped("it was paused")

    monkeypatch.setattr(ShardRunner, "run", stopped_for_a_moment)
    with pytest.raises(ShardResumed):
        planned.run()
    planned.ledger.stop("b1", "paused")
    monkeypatch.setattr(Ledger, "stopped", lambda ledger, batch_id: next(marks))
    marks = iter([None, "paused"])
    assert planned.run() is None


def test_a_reported_shard_does_not_run_again() -> None:
    planned = Planned("run-twice", b"one")
    planned.run()
    planned.engine.batches.clear()
    assert planned.run() is None
    assert planned.engine.batches == []


@pytest.mark.parametrize("how", STOPS)
def test_a_stopped_batch_does_not_run(how: Stop) -> None:
    planned = Planned(f"run-{how}", b"one")
    planned.ledger.stop("b1", how)
    assert planned.run() is None
    assert not planned.ledger.has_report("b1", 0)


@pytest.mark.parametrize("how", STOPS)
def test_a_stop_reaches_a_running_shard_and_a_resumed_one_ends_right(how: Stop) -> None:
    planned = Planned(f"run-{how}-midway", *[b"x"] * 150)
    planned.engine.decode_s = 0.02
    timer = threading.Timer(0.2, planned.ledger.stop, ["b1", how])
    timer.start()
    settings = Settings(progress_interval_s=0.05, read_threads=1)
    assert planned.run(settings) is None
    timer.join()
    assert not planned.ledger.has_report("b1", 0)
    planned.ledger.clear_stop("b1")
    planned.engine.decode_s = 0
    totals = planned.run()
    assert (totals.photos, totals.protected, totals.skipped) == (150, 150, 0)


def test_a_running_shard_tells_how_far_it_is() -> None:
    planned = Planned("run-progress", *[b"x"] * 60)
    planned.engine.decode_s = 0.02
    seen: list[int] = []
    beat = ShardLease.beat

    def spy(lease: ShardLease, done: Totals | None = None) -> None:
        beat(lease, done)
        seen.append(BatchMonitor(planned.ledger, "b1").poll(running=True).running.photos)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ShardLease, "beat", spy)
        planned.run(Settings(progress_interval_s=0.1, read_threads=1))
    assert seen == sorted(seen)
    assert any(0 < count < 60 for count in seen)
    assert attempts_at(planned.ledger, "b1") == [], "a try that ended leaves nothing"


def test_passing_failures_make_the_shard_come_again_until_the_last_try(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = Planned("run-transient", b"one", b"two")
    put = MemoryStore.put

    def flaky(self: MemoryStore, key: str, data: bytes, **options: Any) -> Any:
        if key == "001.jpg":
            raise StoreUnavailable("503")
        return put(self, key, data, **options)

    monkeypatch.setattr(MemoryStore, "put", flaky)
    with pytest.raises(ShardIncomplete):
        planned.run(last_try=False)
    assert not planned.ledger.has_report("b1", 0)
    totals = planned.run(last_try=True)
    assert (totals.protected, totals.failed) == (1, 1)


def test_a_filter_that_cannot_load_fails_every_photo_with_its_reason() -> None:
    planned = Planned("run-no-detector", b"one", b"two")

    def load(*_: object) -> FakeEngine:
        raise DetectorError("no InsightFace pack 'buffalo_l': put its files there")

    run = run_shard(planned.job, Settings(), load=load)
    assert run is not None
    assert run.totals.failed == 2
    report = planned.ledger.read_report("b1", 0)
    assert report is not None
    assert "buffalo_l" in str(report.photos[0].reason)


def test_a_detector_that_cannot_be_fetched_now_is_waited_for() -> None:
    """On a queue the shard is sent again later, as where a store is down; a command alone tells it at once."""
    planned = Planned("run-no-network", b"one")

    def load(*_: object) -> FakeEngine:
        raise DetectorUnreachable("detector 'yunet' cannot be had: is the network there?")

    with pytest.raises(ShardIncomplete, match="is the network there"):
        run_shard(planned.job, Settings(broker_url="redis://localhost", allowed_urls="*"), load=load, last_try=False)
    assert not planned.ledger.has_report("b1", 0)
    run = run_shard(planned.job, Settings(), load=load)
    assert run is not None and run.totals.failed == 1


def test_a_lost_shard_reports_what_was_written_as_done_and_the_rest_as_failed() -> None:
    planned = Planned("run-lost", b"one", b"two")
    planned.run()
    planned.destination.delete("001.jpg")
    planned.destination.delete(".apf/batches/b1/reports/00000.jsonl")
    report_lost_shard(planned.job, Settings(), RuntimeError("the worker died"))
    report = planned.ledger.read_report("b1", 0)
    assert report is not None
    assert [photo.outcome for photo in report.photos] == [Outcome.protected, Outcome.failed]
    assert report.photos[1].reason == "the shard was given up: the worker died"


def test_a_shard_whose_torn_plan_was_mended_meanwhile_is_not_given_up() -> None:
    """Between the failed try and its report reconciling made the plan anew, and sent the shard again: it is done then.

    While the plan is torn, nothing is reported, either.
    """
    planned = Planned("run-mended", b"one", b"two")
    key = planned.ledger.key("b1", "plan", "00000.jsonl")
    whole = planned.destination.get(key).data
    planned.destination.put(key, whole[: len(whole) // 2])
    with pytest.raises(TornPlan, match="is torn") as torn:
        planned.run()
    with pytest.raises(TornPlan):
        report_lost_shard(planned.job, Settings(), torn.value)
    planned.destination.put(key, whole)
    report_lost_shard(planned.job, Settings(), torn.value)
    assert not planned.ledger.has_report("b1", 0)
    assert planned.run().protected == 2
