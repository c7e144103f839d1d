"""Going on with batches: from the ledger alone, whatever was lost."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

from tests.memory_store import MemoryStore
from tests.workers.fakes import FakeBroker, FakeEngine
from tests.workers.ledger.test_leases import died, rewrite
from workers.batches.rescue import PLANNER_LEASE_S, periodic_rescuer, plan_and_send, reconcile, resume
from workers.broker.queue_state import QueueSnapshot
from workers.broker.queues import queue_of
from workers.config.settings import Settings
from workers.core import clock
from workers.core.records import BULK, Batch, Outcome, PhotoReport, ShardJob, ShardReport
from workers.errors import LedgerError
from workers.execution.run_shard import run_shard
from workers.ledger import leases
from workers.ledger.batch_ledger import Ledger, open_ledger
from workers.ledger.callback_state import read_callback, write_callback
from workers.ledger.leases import ShardLease
from workers.ledger.lifecycle import after_shard, close
from workers.ledger.open_batches import OPEN, register, roots, unregister
from workers.status.batch_status import BatchMonitor
from workers.store import Store, open_store

IDLE, BUSY = QueueSnapshot(queued={}, taken=()), QueueSnapshot(queued={BULK: 3}, taken=())
SETTINGS = Settings(broker_url="redis://x", allowed_urls="memory://source memory://public")


class Lost(Exception):
    """The producer was killed."""


class World:
    """A source of five photos, a destination below an allowed root, and a queue that remembers what was sent."""

    def __init__(self) -> None:
        for name in ("source", "public"):
            MemoryStore(f"memory://{name}").clear()
        self.source: Store = open_store("memory://source/in")
        for name in "abcde":
            self.source.put(f"{name}.jpg", name.encode())
        self.ledger: Ledger = open_ledger("memory://public/out")
        self.batch = self._batch()
        self.sent: list[int] = []
        register(self.ledger, self.batch, SETTINGS)
        self.ledger.write_batch(self.batch)

    def _batch(self) -> Batch:
        from tests.workers.execution.test_shard_pipeline import make_batch  # noqa: PLC0415

        batch = make_batch(self.source.url, "memory://public/out", max_shard_photos=2)
        return batch.model_copy(update={"created_at": clock.now().isoformat()})

    def send(self, job: ShardJob) -> None:
        assert job.batch_url == self.ledger.batch_url("b1")
        self.sent.append(job.shard)

    def plan(self) -> None:
        plan_and_send(self.ledger, "b1", FakeBroker(self.send), SETTINGS)

    def reconcile(self, waiting: QueueSnapshot = IDLE) -> list[int]:
        """One pass; the shards that it sent."""
        self.sent.clear()
        sent = reconcile(roots(SETTINGS), FakeBroker(self.send, waiting), SETTINGS)
        assert sum(sent.values()) == len(self.sent)
        return self.sent

    def work(self, *shards: int) -> None:
        for shard in shards:
            job = ShardJob(batch_url=self.ledger.batch_url("b1"), shard=shard)
            run_shard(job, SETTINGS, load=lambda *_: FakeEngine())

    def is_registered(self) -> bool:
        return open_store("memory://public").head(f"{OPEN}b1") is not None

    def age(self, seconds: float) -> None:
        """The batch was last written so long ago."""
        then = (clock.now() - timedelta(seconds=seconds)).isoformat()
        self.ledger.write_batch(self.ledger.read_batch("b1").model_copy(update={"updated_at": then}))


def taken(world: World, *shards: int) -> QueueSnapshot:
    """Nothing waits, and workers were given these shards."""
    url = world.ledger.batch_url("b1")
    return QueueSnapshot(queued={}, taken=[ShardJob(batch_url=url, shard=shard) for shard in shards])


def no_callback(url: str) -> None:
    raise AssertionError(f"{url} asks for no callback")


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def planned(world: World) -> World:
    world.plan()
    assert world.sent == [0, 1, 2]
    return world


def test_a_flushed_queue_is_filled_again(planned: World) -> None:
    planned.work(1)
    assert planned.reconcile() == [0, 2]
    planned.work(0, 2)
    assert planned.reconcile() == []
    assert BatchMonitor(planned.ledger, "b1").poll().protected == 5


def test_a_batch_that_is_done_is_looked_at_no_more(planned: World) -> None:
    planned.work(0, 1, 2)
    assert planned.is_registered()
    planned.reconcile()
    assert not planned.is_registered()


def test_an_uploads_batch_is_closed_with_its_shard(world: World) -> None:
    """Ten uploads a second would else be as many open batches as a pass can look at."""
    batch = world.batch.model_copy(update={"max_shard_photos": 9})
    world.ledger.write_batch(batch)
    world.plan()
    after_shard(world.ledger, world.ledger.read_batch("b1"), 0, SETTINGS, no_callback)
    assert world.is_registered(), "not reported yet"
    world.work(0)
    after_shard(world.ledger, world.ledger.read_batch("b1"), 0, SETTINGS, no_callback)
    assert not world.is_registered()


def test_what_is_registered_and_never_came_is_forgotten_after_a_day(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its producer died in between; until then it could still be writing."""
    world.ledger.forget_batch("b1")
    world.reconcile()
    assert world.is_registered()
    monkeypatch.setattr("workers.ledger.open_batches.STALE_S", -1.0)
    world.reconcile()
    assert not world.is_registered()


@pytest.mark.parametrize(
    "changes", [{"source": "memory://secret"}, {"destination": "memory://elsewhere"}], ids=["source", "destination"]
)
def test_a_forged_batch_is_neither_listed_nor_closed(world: World, changes: dict[str, str]) -> None:
    """Whoever can write a record into an allowed place has no worker read or write outside of them."""
    open_store("memory://secret").put("private.jpg", b"x")
    world.ledger.write_batch(world.batch.model_copy(update={**changes, "created_at": "2020-01-01T00:00:00+00:00"}))
    assert world.reconcile() == []
    assert not list(world.ledger.store.list(world.ledger.key("b1", "plan", "")))
    assert not list(open_store("memory://elsewhere").list(OPEN))


@pytest.mark.parametrize("moment", ["2026-01-01T00:00:00", "yesterday", ""])
def test_a_batch_with_a_foul_date_holds_up_no_other(planned: World, moment: str) -> None:
    """Anybody who may write one destination's ledger could else stop reconciling for all."""
    foul = planned.ledger.key("b0", "batch.json")
    text = planned.batch.model_copy(update={"id": "b0"}).model_dump_json()
    planned.ledger.store.put(foul, text.replace(planned.batch.created_at, moment).encode())
    open_store("memory://public").put(f"{OPEN}b0", planned.ledger.batch_url("b0").encode())
    assert planned.reconcile() == [0, 1, 2]
    with pytest.raises(LedgerError, match="created_at"):
        planned.ledger.read_batch("b0")


def test_a_forged_batch_that_is_done_takes_no_other_off_the_list(world: World) -> None:
    """It lies where its writer may write, and names the other's id and destination."""
    forged = open_ledger("memory://public/mine")
    forged.write_batch(world.batch.model_copy(update={"planned": True}))
    unregister(forged, world.batch, SETTINGS)
    assert world.is_registered()
    unregister(world.ledger, world.batch, SETTINGS)
    assert not world.is_registered()


def test_a_batch_that_is_taken_off_and_cannot_be_read_again_is_put_back(
    planned: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been retried in that moment, and nobody else would find it."""
    planned.work(0, 1, 2)
    batch = planned.ledger.read_batch("b1")
    monkeypatch.setattr(Ledger, "read_batch", lambda *_: (_ for _ in ()).throw(LedgerError("torn")))
    with pytest.raises(LedgerError):
        close(planned.ledger, batch, SETTINGS)
    assert planned.is_registered()


def test_a_worker_hands_planning_on_instead_of_doing_it_in_its_pass(world: World) -> None:
    """A library takes minutes to list; the pass has others to look after."""
    world.age(PLANNER_LEASE_S + 1)
    planned: list[str] = []
    sent = reconcile(roots(SETTINGS), FakeBroker(world.send, IDLE, plan=planned.append), SETTINGS)
    assert (planned, sent, world.sent) == ([world.ledger.batch_url("b1")], {}, [])
    queue = queue_of(world.ledger.read_batch("b1"))
    reconcile(roots(SETTINGS), FakeBroker(world.send, QueueSnapshot({queue: 1}, ()), plan=planned.append), SETTINGS)
    assert len(planned) == 1, "it may wait there"
    world.age(SETTINGS.visibility_timeout_s + 1)
    reconcile(roots(SETTINGS), FakeBroker(world.send, QueueSnapshot({queue: 1}, ()), plan=planned.append), SETTINGS)
    assert len(planned) == 2, "it was lost, and others keep the queue from being empty"


def test_a_batch_is_planned_in_pieces(world: World) -> None:
    """One that takes long leaves its worker to others after each."""
    grown = plan_and_send(world.ledger, "b1", FakeBroker(world.send), SETTINGS, enough=lambda: True)
    assert (grown.planned, world.sent) == (False, [0])
    while not plan_and_send(world.ledger, "b1", FakeBroker(world.send), SETTINGS, enough=lambda: True).planned:
        pass
    assert world.sent == [0, 1, 2]


def test_while_a_callback_is_owed_no_report_is_read(planned: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver may be down for a day, and a batch have a million photos."""
    batch = planned.ledger.read_batch("b1").model_copy(update={"callback": "https://app.example/hook"})
    planned.ledger.write_batch(batch)
    planned.work(0, 1, 2)
    write_callback(planned.ledger, batch, read_callback(planned.ledger, batch).model_copy(update={"tries": 1}))
    monkeypatch.setattr(Ledger, "read_report", lambda *_: pytest.fail("a report was read"))
    told: list[str] = []
    reconcile(roots(SETTINGS), FakeBroker(planned.send, IDLE, told.append), SETTINGS)
    assert planned.is_registered()
    assert told in ([], [planned.ledger.batch_url("b1")])


def test_shards_that_somebody_is_at_are_left_to_them(planned: World) -> None:
    ShardLease(planned.ledger, "b1", 1, lease_s=60).beat()
    died(planned.ledger, shard=2)
    assert planned.reconcile(taken(planned, 1, 2)) == [0, 2]


def test_shards_that_wait_in_the_queue_are_not_sent_twice(planned: World) -> None:
    """Every minute another copy of a long queue would bury it."""
    assert planned.reconcile(BUSY) == []
    assert planned.reconcile(taken(planned, 0, 2)) == [1], "taken by workers that have not written yet"
    died(planned.ledger, shard=0)
    assert planned.reconcile(taken(planned, 0, 0)) == [1, 2], "a dead one's message, and one that was just taken"


def test_what_others_have_in_their_queues_hides_no_loss(planned: World) -> None:
    """A busy platform's queues are never all empty; this batch's own is."""
    other = ShardJob(batch_url="memory://other/.apf/batches/b1", shard=0)
    assert planned.reconcile(QueueSnapshot(queued={"interactive.03": 9}, taken=(other,))) == [0, 1, 2]


def test_a_dead_workers_shard_is_sent_at_once_and_once(planned: World) -> None:
    """Redis itself gives its message to another after an hour; others' shards in the queue are left there."""
    batch = planned.ledger.read_batch("b1")
    long_ago = (clock.now() - timedelta(seconds=600)).isoformat()
    planned.ledger.write_batch(batch.model_copy(update={"created_at": long_ago}))
    died(planned.ledger, shard=1)
    assert planned.reconcile(BUSY) == [1]
    assert planned.reconcile(BUSY) == []


def test_two_workers_that_die_together_are_both_missed(planned: World) -> None:
    """The second's lease ends later, after the first one's shard was sent."""
    died(planned.ledger, shard=0)
    assert planned.reconcile(BUSY) == [0]
    died(planned.ledger, shard=1)
    assert planned.reconcile(BUSY) == [1]


def test_now_and_then_the_queue_is_searched(planned: World) -> None:
    """Others' work may keep it from ever being empty: what is not in it was lost, what is in it is not sent again."""
    batch = planned.ledger.read_batch("b1")
    long_ago = clock.now() - timedelta(seconds=SETTINGS.visibility_timeout_s + 1)
    planned.ledger.write_batch(batch.model_copy(update={"created_at": long_ago.isoformat()}))
    url = planned.ledger.batch_url("b1")
    held = [ShardJob(batch_url=url, shard=1), ShardJob(batch_url="memory://other/.apf/batches/b1", shard=0)]
    busy = QueueSnapshot(queued={BULK: 5}, taken=(), jobs=lambda queues: held if BULK in queues else [])
    assert planned.reconcile(busy) == [0, 2]
    assert planned.reconcile(busy) == [], "searched just now"
    planned.ledger.store.put(planned.ledger.key("b1", "looked.json"), b"{")
    assert planned.reconcile(busy) == [0, 2], "a torn note is none"


def test_a_planner_that_goes_on_with_an_old_record_plans_nothing_twice(world: World) -> None:
    """`apf resume` beside a producer that lives: each sees what the other has planned."""
    world.plan()
    world.work(0, 1, 2)
    world.source.put("aa.jpg", b"new")
    resume(world.ledger, "b1", FakeBroker(world.send), SETTINGS)
    summary = BatchMonitor(world.ledger, "b1").poll()
    assert (summary.photos, summary.protected, summary.missing, summary.done) == (5, 5, 0, True)


def test_a_batch_that_is_stopped_is_not_planned_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.batches.rescue.LOOK_FOR_STOP_S", 0.0)
    world.ledger.stop("b1", "cancelled")
    world.plan()
    assert world.sent == [0]
    assert not world.ledger.read_batch("b1").planned


def test_who_waits_for_a_batch_sends_again_what_a_dead_worker_left(planned: World) -> None:
    """Without `apf beat`, and although the try seemed to live when the batch was resumed."""
    ShardLease(planned.ledger, "b1", 1, lease_s=60).beat()
    assert resume(planned.ledger, "b1", FakeBroker(planned.send), SETTINGS) == 2
    planned.work(0, 2)
    settings = SETTINGS.model_copy(update={"lease_s": 0.0})
    mind = periodic_rescuer(planned.ledger, "b1", FakeBroker(planned.send), settings)
    planned.sent.clear()
    mind()
    assert planned.sent == []
    (attempt,) = leases.attempts_at(planned.ledger, "b1")
    rewrite(planned.ledger, attempt.model_copy(update={"host": "gone", "lease_s": 0.001}))
    time.sleep(0.01)
    mind()
    assert planned.sent == [1]


def test_a_batch_that_is_retried_while_it_is_taken_off_the_list_stays_on_it(
    planned: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned.work(0, 1, 2)

    def unregister_and_retry(ledger: Ledger, batch: Batch, settings: Settings) -> None:
        unregister(ledger, batch, settings)
        planned.ledger.write_batch(batch.model_copy(update={"shards": 4, "first_retry": 3}))

    monkeypatch.setattr("workers.ledger.lifecycle.unregister", unregister_and_retry)
    planned.reconcile()
    assert planned.is_registered()


@pytest.mark.parametrize("how", ["paused", "cancelled"])
def test_a_stopped_batch_stays_stopped_until_it_is_resumed(planned: World, how: str) -> None:
    planned.ledger.stop("b1", how)  # type: ignore[arg-type]
    planned.age(10 * PLANNER_LEASE_S)
    assert planned.reconcile() == []
    planned.sent.clear()
    assert resume(planned.ledger, "b1", FakeBroker(planned.send), SETTINGS) == 3
    assert planned.sent == [0, 1, 2]
    assert planned.ledger.stopped("b1") is None


@pytest.mark.parametrize("sends", [0, 1, 2])
def test_planning_goes_on_where_the_producer_died(world: World, sends: int) -> None:
    def dies(job: ShardJob) -> None:
        if len(world.sent) == sends:
            raise Lost
        world.send(job)

    with pytest.raises(Lost):
        plan_and_send(world.ledger, "b1", FakeBroker(dies), SETTINGS)
    assert sends not in world.reconcile(BUSY), "the producer may be slow, and is given time"
    world.age(PLANNER_LEASE_S + 1)
    world.reconcile()
    assert sorted(set(world.sent)) == list(range(3)), "the shard whose message was lost, too"
    world.work(0, 1, 2)
    summary = BatchMonitor(world.ledger, "b1").poll()
    assert (summary.photos, summary.protected, summary.done) == (5, 5, True)


def test_a_producer_that_died_before_it_wrote_anything_leaves_no_trouble(world: World) -> None:
    world.ledger.store.delete(world.ledger.key("b1", "batch.json"))
    assert world.reconcile() == []


@pytest.mark.parametrize("shard", [0, 1, 2])
def test_a_torn_plan_is_made_anew(planned: World, shard: int) -> None:
    planned.ledger.store.put(planned.ledger.key("b1", "plan", f"{shard:05}.jsonl"), b'{"kind": "plan", "ver')
    planned.reconcile()
    planned.work(0, 1, 2)
    summary = BatchMonitor(planned.ledger, "b1").poll()
    assert (summary.protected, summary.pending) == (5, 0)


def test_a_batch_that_is_resumed_is_looked_after_again(planned: World) -> None:
    """It was done, and taken off the list, when a report of it was lost."""
    planned.work(0, 1, 2)
    planned.reconcile()
    assert not planned.is_registered()
    planned.ledger.store.delete(planned.ledger.key("b1", "reports", "00001.jsonl"))
    resume(planned.ledger, "b1", FakeBroker(planned.send), SETTINGS)
    assert planned.is_registered()


def test_a_torn_report_makes_its_shard_run_again(planned: World) -> None:
    planned.work(0, 1, 2)
    key = planned.ledger.key("b1", "reports", "00001.jsonl")
    planned.ledger.store.put(key, planned.ledger.store.get(key).data[:-40])
    assert planned.reconcile() == [1]
    planned.work(1)
    assert BatchMonitor(planned.ledger, "b1").poll().protected == 5


def test_a_torn_plan_of_a_retry_leaves_its_photos_failed(planned: World) -> None:
    """Nobody knows any more which photos it repeated; they can be retried."""
    planned.work(0, 1)
    failed = tuple(
        PhotoReport(key=ref.key, etag=ref.etag, outcome=Outcome.failed) for ref in planned.ledger.read_plan("b1", 2)
    )
    planned.ledger.write_report("b1", _report(2, failed))
    batch = planned.ledger.read_batch("b1")
    planned.ledger.write_batch(batch.model_copy(update={"shards": 4, "first_retry": 3}))
    planned.ledger.store.put(planned.ledger.key("b1", "plan", "00003.jsonl"), b"")
    assert planned.reconcile() == [3]
    planned.work(3)
    summary = BatchMonitor(planned.ledger, "b1").poll()
    assert (summary.failed, summary.protected, summary.pending) == (1, 4, 0)


def _report(shard: int, photos: tuple[PhotoReport, ...]) -> ShardReport:
    return ShardReport(
        shard=shard, photos=photos, stage_seconds={}, wall_seconds=0, worker="w", finished_at="", peak_memory_bytes=0
    )


def test_one_batch_that_cannot_be_read_does_not_keep_the_others_waiting(planned: World) -> None:
    store = open_store("memory://public")
    store.put(f"{OPEN}0", planned.ledger.batch_url("0").encode())
    planned.ledger.store.put(planned.ledger.key("0", "batch.json"), b"{")
    store.put(f"{OPEN}1", b"memory://elsewhere/.apf/batches/1")
    store.put(f"{OPEN}2", b"\xff")
    assert planned.reconcile() == [0, 1, 2]


def test_every_root_is_looked_through(planned: World) -> None:
    """One that cannot be listed is passed over."""
    settings = SETTINGS.model_copy(update={"allowed_urls": "file:///nobody memory://public memory://source"})
    sent = reconcile(roots(settings), FakeBroker(planned.send), settings)
    assert sent == {"b1": 3}
