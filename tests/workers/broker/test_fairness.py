"""What bulk work is owed, how queues are ordered by it, and when a shard gives way."""

from __future__ import annotations

from collections import Counter

import pytest
from celery.exceptions import Retry, SoftTimeLimitExceeded

from tests.workers.execution.test_run_shard import Planned
from tests.workers.ledger.test_leases import died
from workers import tasks
from workers.broker import fairness
from workers.broker.fairness import TURN_S, BulkCredit
from workers.broker.queues import FairQueueOrder, all_queues
from workers.config.settings import Settings
from workers.core.records import BULK, ShardJob
from workers.errors import StoreUnavailable
from workers.execution.isolation import SPLIT_AFTER
from workers.execution.run_shard import ShardIncomplete, ShardResumed, ShardTimedOut
from workers.execution.shard_pipeline import ShardPreempted
from workers.ledger.batch_ledger import Ledger
from workers.ledger.checkpoints import checkpoint_totals, read_checkpoint
from workers.ledger.leases import attempts_at
from workers.status.batch_status import BatchMonitor

#: A shard asks after each photo.
ONE_AT_A_TIME = Settings(batch_megapixels=0.001)


class Clock:
    """A monotonic clock that tests move on."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(fairness, "time", clock)
    return clock


def served(seconds: dict[str, float], minutes: float, clock: Clock) -> Counter[str]:
    """Seconds that one worker spends on messages of these queues, in each of which some always wait."""
    cycle, child, spent = FairQueueOrder(all_queues()), BulkCredit(), Counter[str]()
    end = clock.now + 60 * minutes
    while clock.now < end:
        queue = next(name for name in cycle.consume(None) if name in seconds)
        cycle.rotate(queue)
        child.tick([queue], begins=queue)
        started = clock.now
        clock.now += seconds[queue]
        while queue.startswith(BULK) and child.now([queue]) > 0:  # a shard that would give way, and may not yet
            clock.now += seconds[queue]
        child.tick([])
        spent[queue] += clock.now - started  # type: ignore[assignment]  # seconds count, too
    return spent


@pytest.mark.parametrize("upload_s", [0.2, 1.0, 7.0, 60.0])
def test_a_flood_of_uploads_leaves_bulk_work_its_quarter(upload_s: float, clock: Clock) -> None:
    """However long an upload takes, and though a bulk shard would give way at once."""
    spent = served({"interactive.01": upload_s, "bulk.00.0": 0.5}, 20, clock)
    assert 0.23 < spent["bulk.00.0"] / spent.total() < 0.3


def test_a_share_of_nothing_leaves_all_to_uploads(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """APF_BULK_SHARE=0."""
    monkeypatch.setattr(FairQueueOrder, "share", 0.0)
    assert served({"interactive.01": 1.0, "bulk.00.0": 0.5}, 5, clock)["bulk.00.0"] == 0


def test_uploads_among_themselves_owe_no_more_than_a_turn(clock: Clock) -> None:
    """Hours of uploads with no bulk work that waits do not let a later batch hold uploads up for long."""
    account = BulkCredit()
    for _ in range(1000):
        account.tick(["interactive.01"], begins="interactive.01")
        clock.now += 2
        account.tick([])
    assert TURN_S <= account.now([]) < TURN_S + 1
    clock.now += 60
    account.tick(["interactive.01"], begins="interactive.01")
    assert account.now([]) == 0, "it was idle: nothing waited"


def test_bulk_work_in_peace_runs_up_nothing(clock: Clock) -> None:
    account = BulkCredit()
    account.tick(["bulk.00.0"], begins="bulk.00.0")
    clock.now += 3600
    assert account.now(["bulk.00.0"]) == 0


def test_a_worker_with_many_processes_counts_each(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three at uploads beside one at bulk work are its quarter; four at uploads owe it a turn soon."""
    in_hand = ["interactive.01"] * 3 + ["bulk.00.0"]
    monkeypatch.setattr(FairQueueOrder, "in_hand", staticmethod(lambda: in_hand))
    cycle = FairQueueOrder(all_queues())
    for _ in range(60):
        assert cycle.consume(1) != ["bulk"]
        clock.now += 1
    in_hand[3] = "interactive.02"
    for _ in range(5):
        cycle.consume(1)
        clock.now += 1
    assert cycle.consume(1) == ["bulk"]


def test_neither_a_shard_nor_planning_gives_way_before_it_had_its_share(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upload waits all along; nobody is asked for it while something is owed."""
    account, asked = BulkCredit(), []
    monkeypatch.setattr(tasks, "_owed", account)
    monkeypatch.setattr(tasks, "time", clock)
    monkeypatch.setattr(tasks, "should_yield", lambda *_: asked.append(clock.now) or True)
    monkeypatch.setenv(tasks.QUEUES, ",".join(all_queues()))
    for queue, ask in [("bulk.00.0", lambda: tasks._overtaken(None, "bulk.00.0")), (BULK, lambda: tasks._enough(None))]:  # type: ignore[arg-type,return-value]
        account.tick(["interactive.01"], begins="interactive.01")
        clock.now += 12
        account.tick([queue], begins=queue)
        enough = ask()
        answers = []
        for _ in range(6):
            clock.now += 1.1
            answers.append(enough())
        assert answers == [False] * 3 + [True] * 3
    assert len(asked) == 6


def test_celery_counts_no_tries() -> None:
    """Each limit is where its count is: its default of three would end shards that gave way, and callbacks."""
    assert tasks.protect_shard.max_retries is None
    assert tasks.deliver_callback.max_retries is None


def test_a_store_is_waited_for_for_about_twenty_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/faults.md says so; and no wait outlasts the visibility timeout, after which Redis gives the message away."""
    total = sum(tasks._back_off_s(waits) for waits in range(tasks.MAX_WAITS))
    assert 18 < total / 60 < 26
    monkeypatch.setenv("APF_VISIBILITY_TIMEOUT_S", "81")
    monkeypatch.setenv("APF_SHARD_HARD_LIMIT_S", "40")
    monkeypatch.setenv("APF_SHARD_SOFT_LIMIT_S", "30")
    assert max(tasks._back_off_s(waits) for waits in range(20)) <= 40.5


def test_what_a_shard_has_done_when_it_gives_way_stays_done() -> None:
    """Of twenty tries each protects some more, and none of them a photo again; status shows it in between."""
    planned = Planned("begun", *[b"x"] * 40)
    done, tries = [], 0
    while not planned.ledger.has_report("b1", 0):
        tries += 1
        try:
            planned.run(ONE_AT_A_TIME, overtaken=lambda: True)
        except ShardPreempted:
            assert attempts_at(planned.ledger, "b1", 0) == []
            done.append(BatchMonitor(planned.ledger, "b1").poll(running=True).running.protected)
    assert tries > 20
    assert done == sorted(set(done))
    assert sum(planned.engine.batches) == 40
    report = planned.ledger.read_report("b1", 0)
    assert report is not None
    assert [photo.key for photo in report.photos] == [f"{number:03}.jpg" for number in range(40)]
    assert (report.totals.protected, {photo.attempts for photo in report.photos}) == (40, {1})
    assert checkpoint_totals(planned.ledger, planned.ledger.read_batch("b1")) == {}


def test_a_torn_note_or_that_of_another_batch_is_passed_over() -> None:
    """Outputs are then asked for one by one."""
    planned = Planned("begun-torn", *[b"x"] * 4)
    with pytest.raises(ShardPreempted):
        planned.run(ONE_AT_A_TIME, overtaken=lambda: True)
    batch, refs = planned.ledger.read_batch("b1"), planned.ledger.read_plan("b1", 0)
    assert read_checkpoint(planned.ledger, batch, 0, refs)
    anew = batch.model_copy(update={"created_at": "2020-01-01T00:00:00+00:00"})
    assert read_checkpoint(planned.ledger, anew, 0, refs) == {}
    other = [ref.model_copy(update={"etag": "other"}) for ref in refs]
    assert read_checkpoint(planned.ledger, batch, 0, other) == {}
    tear(planned.ledger)
    assert planned.run().protected == 4


def tear(ledger: Ledger) -> None:
    ledger.store.put(ledger.key("b1", "begun", "00000.json"), b"{")


def test_a_shard_that_is_taken_photo_by_photo_gives_way_too() -> None:
    """Its workers died, so that it takes long: the uploads behind it did not choose that."""
    planned = Planned("begun-one-by-one", *[b"x"] * 3)
    for _ in range(SPLIT_AFTER):
        died(planned.ledger)
    with pytest.raises(ShardPreempted):
        planned.run(ONE_AT_A_TIME, overtaken=lambda: True)
    assert planned.engine.batches == [1]
    assert planned.run().protected == 3
    assert planned.engine.batches == [1, 1, 1]


class Asked:
    """Stands for the bound task: keeps how it was asked to be sent again."""

    app = None

    def __init__(self) -> None:
        self.again: list[dict[str, object]] = []

    def retry(self, **options: object) -> Exception:
        self.again.append(options)
        return Retry()


@pytest.mark.parametrize(
    ("error", "waits"),
    [
        (ShardPreempted("x"), 0),
        (ShardResumed("x"), 0),
        (ShardTimedOut(), 0),
        (SoftTimeLimitExceeded(), 1),
        (StoreUnavailable("x"), 1),
        (ShardIncomplete("x"), 1),
    ],
)
def test_what_counts_as_a_wait(error: Exception, waits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of time before the ledger counts it as a death is a wait, so that it ends; no other limit is in the task."""
    job = ShardJob(batch_url="memory://x", shard=0, waits=3, queue="bulk.01.2")

    def run(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(tasks, "run_shard", run)
    task = Asked()
    with pytest.raises(Retry):
        tasks._protect(task, job)
    (again,) = task.again
    assert "max_retries" not in again
    sent = ShardJob.decode(again["args"][0]) if "args" in again else job  # type: ignore[index]
    assert (sent.waits, sent.queue) == (3 + waits, "bulk.01.2")
    assert bool(again["countdown"]) is bool(waits), "what need not wait has no ETA, which workers hold in memory"
    if waits:
        with pytest.raises(type(error)):
            tasks._protect(task, job.model_copy(update={"waits": tasks.MAX_WAITS}))


@pytest.mark.parametrize(("takes_s", "times"), [(0.6, 2), (1.5, 1)])
def test_only_a_redis_that_hardly_answers_is_left_alone(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, takes_s: float, times: int
) -> None:
    """One that takes half a second, as on a busy machine, is asked again soon; one that takes longer is down."""
    asked = []

    def slow(*_: object) -> bool:
        asked.append(clock.now)
        clock.now += takes_s
        return False

    monkeypatch.setattr(tasks, "_owed", BulkCredit())
    monkeypatch.setattr(tasks, "time", clock)
    monkeypatch.setattr(tasks, "should_yield", slow)
    monkeypatch.setenv(tasks.QUEUES, ",".join(all_queues()))
    overtaken = tasks._overtaken(None, "bulk.00.0")  # type: ignore[arg-type]
    for _ in range(2):
        clock.now += 0.3
        assert not overtaken()
    assert len(asked) == times
