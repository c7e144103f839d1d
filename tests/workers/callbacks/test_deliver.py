"""The callback of a batch: from its last report to a receiver that has it, in memory and one try at a time."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.memory_store import MemoryStore
from tests.receivers import LOOPBACK, SECRETS, Receiver, hangs, receiving, status
from tests.workers.execution.test_shard_pipeline import make_batch
from tests.workers.fakes import FakeBroker, FakeEngine
from workers.batches.create import BatchOptions, new_batch
from workers.batches.rescue import plan_and_send, reconcile
from workers.batches.retry import retry
from workers.callbacks import deliver as delivery
from workers.callbacks import retry_policy as tries
from workers.callbacks import throttle
from workers.callbacks.deliver import Delivery, deliver
from workers.callbacks.payload import FEW_PHOTOS, LONGEST_REASON, MOST_FAILURES, Event, trial
from workers.callbacks.retry_policy import REFUSED_TRIES, delay_after
from workers.config.settings import Settings
from workers.core import clock
from workers.core.records import Batch, Outcome, PhotoReport, ShardJob, ShardReport
from workers.errors import CallbackError, NoConditions, NotAllowed
from workers.execution.run_shard import run_shard
from workers.ledger import callback_state as callback
from workers.ledger.batch_ledger import Ledger, open_ledger
from workers.ledger.callback_state import RECORD, Callback, read_callback, webhook_id, write_callback
from workers.ledger.lifecycle import after_shard
from workers.ledger.open_batches import OPEN, register, roots
from workers.store import ObjectInfo, Store, open_store

SCHEMA = Path(__file__).parents[3] / "docs" / "callback.schema.json"


class World:
    """A source, a destination below an allowed root, a receiver, and what workers were asked for."""

    def __init__(self, receiver: Receiver, photos: int = 5, **settings: Any) -> None:
        for name in ("source", "public"):
            MemoryStore(f"memory://{name}").clear()
        self.receiver = receiver
        common = {"broker_url": "redis://x", "allowed_urls": "memory://source memory://public"}
        self.settings = Settings.model_validate({**common, **LOOPBACK, **settings})
        self.source: Store = open_store("memory://source/in")
        for number in range(photos):
            self.source.put(f"{number:03}.jpg", b"corrupt" if number == 1 else b"face %d" % number)
        self.ledger: Ledger = open_ledger("memory://public/out")
        batch = make_batch(
            self.source.url, "memory://public/out", max_shard_photos=2, callback=receiver.url, tenant="acme"
        )
        batch = batch.model_copy(update={"created_at": clock.now().isoformat()})
        register(self.ledger, batch, self.settings)
        self.ledger.write_batch(batch)
        plan_and_send(self.ledger, "b1", FakeBroker(), self.settings)
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return self.ledger.batch_url("b1")

    @property
    def callback(self) -> Callback:
        return read_callback(self.ledger, self.ledger.read_batch("b1"))

    def work(self, *shards: int) -> None:
        for shard in shards:
            job = ShardJob(batch_url=self.url, shard=shard)
            run = run_shard(job, self.settings, load=lambda *_: FakeEngine())
            self.after(shard, run.batch if run else None)

    def after(self, shard: int, written: Batch | None = None) -> None:
        """What a task does after a shard; `written` is the record where the report was written just now."""
        batch = written or self.ledger.read_batch("b1")
        after_shard(self.ledger, batch, shard, self.settings, self.asked.append, reported=written is not None)

    def work_all(self) -> None:
        self.work(*range(self.ledger.read_batch("b1").shards))

    def deliver(self) -> Delivery:
        return deliver(self.url, self.settings)

    def reconcile(self) -> list[str]:
        """One pass; the batches whose callback it asked for."""
        self.asked.clear()
        reconcile(roots(self.settings), FakeBroker(callback=self.asked.append), self.settings)
        return self.asked

    def is_registered(self) -> bool:
        return open_store("memory://public").head(f"{OPEN}b1") is not None

    def pass_time(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        """From now on it is so much later, for callbacks."""
        then = callback.now
        for module in (callback, tries):
            monkeypatch.setattr(module, "now", lambda: then() + timedelta(seconds=seconds))


@pytest.fixture(autouse=True)
def rested() -> None:
    throttle.forget()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def world(receiver: Receiver) -> World:
    return World(receiver)


@pytest.fixture
def done(world: World) -> World:
    world.work_all()
    return world


def test_the_last_report_has_the_callback_delivered(world: World) -> None:
    """Whichever shard ends last, and not before."""
    world.work(2, 0)
    assert world.asked == []
    assert world.deliver() == delivery.NOTHING_TO_DO
    world.work(1)
    assert world.asked == [world.url]
    assert world.deliver() == Delivery("delivered")
    (event,) = world.receiver.events()
    assert event["data"]["photos"] == 5
    assert not world.is_registered()


def test_what_a_callback_says(done: World) -> None:
    done.deliver()
    event = done.receiver.got[0].verified()
    data = event["data"]
    assert (event["type"], event["version"]) == ("batch.done", 1)
    assert {name: data[name] for name in ("batch", "source", "destination", "tenant", "lane", "recipe")} == {
        "batch": "b1",
        "source": "memory://source/in",
        "destination": "memory://public/out",
        "tenant": "acme",
        "lane": "bulk",
        "recipe": "standard",
    }
    assert [data[name] for name in ("photos", "protected", "failed", "faces", "missing")] == [5, 4, 1, 8, 0]
    (failure,) = data["failures"]
    assert (failure["key"], failure["attempts"], failure["transient"]) == ("001.jpg", 1, False)
    assert "ends too early" in failure["reason"]
    assert [(photo["key"], photo["outcome"]) for photo in data["results"]] == [
        (f"{number:03}.jpg", "failed" if number == 1 else "protected") for number in range(5)
    ]
    assert (data["results"][0]["faces"], data["results"][0]["bytes_in"]) == (2, len(b"face 0"))


def test_a_large_batch_says_no_more_than_a_receiver_takes(receiver: Receiver) -> None:
    """The first hundred failures, reasons cut, and no list of photos."""
    world = World(receiver, photos=3)
    names = [f"{number:05}.jpg" for number in range(5000)]
    photos = tuple(PhotoReport(key=n, etag="x", outcome=Outcome.failed, reason="why " * 1000) for n in names)
    batch = world.ledger.read_batch("b1").model_copy(update={"shards": 1, "photos": len(photos)})
    world.ledger.write_batch(batch)
    report = ShardReport(
        shard=0, photos=photos, stage_seconds={}, wall_seconds=1, worker="w", finished_at="", peak_memory_bytes=0
    )
    world.ledger.write_report("b1", report)
    world.deliver()
    data = receiver.events()[0]["data"]
    assert (data["failed"], len(data["failures"]), data["failures_truncated"]) == (5000, MOST_FAILURES, True)
    assert (len(data["failures"][0]["reason"]), data["results"]) == (LONGEST_REASON, None)
    assert len(receiver.got[0].body) < 50_000


@pytest.mark.parametrize("photos", [0, 1, FEW_PHOTOS, FEW_PHOTOS + 1])
def test_a_body_matches_the_documented_schema(receiver: Receiver, photos: int) -> None:
    """An empty batch too, and one of a single photo, which is an upload."""
    world = World(receiver, photos=photos)
    world.work_all()
    world.deliver()
    schema = json.loads(SCHEMA.read_text())
    for event in (*receiver.events(), json.loads(trial())):
        jsonschema.validate(event, schema, jsonschema.Draft202012Validator)
    assert (receiver.events()[0]["data"]["results"] is None) == (photos > FEW_PHOTOS)


def test_the_documented_schema_is_the_codes() -> None:
    """Made by: python -c 'from workers.callbacks.payload import schema; print(schema(), end="")' >
    docs/callback.schema.json
    """
    from workers.callbacks.payload import schema  # noqa: PLC0415

    assert SCHEMA.read_text() == schema()
    assert set(Event.model_fields) == set(json.loads(schema())["required"])
    assert "additionalProperties" not in schema(), "fields may be added"


def test_a_receiver_that_is_down_is_tried_again(done: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same event under the same id, and a state that says so meanwhile."""
    done.receiver.answers = [status(500), status(200)]
    failed = done.deliver()
    assert failed.result == "failed"
    assert 3 < (failed.again_s or 0) <= 5
    state = done.callback
    assert (state.state, state.tries, state.status) == ("retrying", 1, 500)
    assert "answered 500" in state.last_error
    assert done.is_registered()
    assert done.deliver() == delivery.NOTHING_TO_DO, "it is early"
    done.pass_time(monkeypatch, 6)
    done.deliver()
    first, second = done.receiver.got
    assert (first.id, first.body) == (second.id, second.body)
    assert done.callback.state == "delivered"
    assert done.callback.as_json()["last_error"] == ""
    assert not done.is_registered()


def test_a_receiver_that_hangs_is_left_alone_for_a_while(done: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs a worker its time-out once, and not for each of the batches that name it; others are not held up."""
    done.settings = Settings.model_validate({**done.settings.model_dump(), "callback_timeout_s": 3})
    done.receiver.answers = [hangs, status(200)]
    assert done.deliver().result == "failed"
    done.pass_time(monkeypatch, 6)
    started = time.monotonic()
    postponed = done.deliver()
    assert (postponed, len(done.receiver.got)) == (delivery.POSTPONED, 1)
    assert 0.9 * throttle.REST_S < done.callback.due_in_s() <= 1.25 * throttle.REST_S
    assert time.monotonic() - started < 3
    assert done.callback.tries == 1, "that was no try"
    throttle.forget()
    done.pass_time(monkeypatch, 80)
    assert done.deliver().result == "delivered"


@pytest.fixture
def resting_one(done: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A batch whose receiver this process leaves alone, because of another batch."""
    monkeypatch.setattr(delivery, "_rest_s", lambda *_: 60.0)
    return done


def test_what_is_postponed_has_one_asker(resting_one: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record says until when: neither a second message nor a periodic pass starts a chain of tasks beside it, and
    no task waits in Redis. Once it is due, one pass asks for it, and does not wait for an ask that was heard.
    """
    world = resting_one
    assert world.reconcile() == [world.url]
    for _ in range(3):
        assert world.deliver() == delivery.POSTPONED
        assert (world.deliver(), world.reconcile()) == (delivery.NOTHING_TO_DO, [])
        world.pass_time(monkeypatch, 50)
        assert (world.deliver(), world.reconcile()) == (delivery.NOTHING_TO_DO, [])
        world.pass_time(monkeypatch, 26)
        assert world.reconcile() == [world.url]
        assert world.reconcile() == []
    assert (world.callback.tries, world.callback.state, world.receiver.got) == (0, "waiting", [])


def test_what_is_postponed_for_a_day_is_given_up(resting_one: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its receiver hung for others all that time; nobody looks after it any more."""
    assert resting_one.deliver() == delivery.POSTPONED
    resting_one.pass_time(monkeypatch, 25 * 3600)
    assert resting_one.deliver().result == "gave_up"
    assert "kept workers waiting" in resting_one.callback.last_error
    assert not resting_one.is_registered()


def test_while_it_is_postponed_no_report_is_read(resting_one: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by the pass, and not by who looks whether it is done."""
    resting_one.deliver()
    monkeypatch.setattr(Ledger, "read_report", lambda *_: pytest.fail("a report is read"))
    resting_one.reconcile()
    resting_one.pass_time(monkeypatch, 80)
    assert resting_one.reconcile() == [resting_one.url]
    assert resting_one.deliver() == delivery.POSTPONED


def test_another_port_or_name_of_a_receiver_that_hangs_is_left_alone_too(done: World, receiver: Receiver) -> None:
    """By host and by address, for its own tenant: else it costs a time-out for each port, and each name, there is."""
    done.settings = Settings.model_validate(
        {**done.settings.model_dump(), "callback_timeout_s": 1.2, "callback_allowed_hosts": "127.0.0.0/8 localhost"}
    )
    receiver.answers = [hangs]
    assert done.deliver().result == "failed"

    def with_callback(url: str, tenant: str = "acme") -> str:
        done.ledger.store.delete(done.ledger.key("b1", RECORD))
        done.ledger.write_batch(done.ledger.read_batch("b1").model_copy(update={"callback": url, "tenant": tenant}))
        return done.deliver().result

    with receiving() as other:
        assert with_callback(other.url) == "postponed", "another port"
        assert with_callback(other.url.replace("127.0.0.1", "localhost")) == "postponed", "another name"
        assert (done.callback.tries, other.got) == (0, []), "that was no try"
        assert with_callback(other.url, "globex") == "delivered", "nobody has another's receiver rest"


def test_a_worker_spends_half_of_its_time_on_callbacks_at_most(done: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many receivers there are; what is beyond is postponed, never given up for that, and goes out."""
    for number in range(31):
        throttle.note("evil", [f"{number}.example"], 1, answered=True)
    assert done.deliver() == delivery.POSTPONED
    assert 1 < done.callback.due_in_s() < 3
    done.pass_time(monkeypatch, 25 * 3600)
    assert done.deliver() == delivery.POSTPONED
    throttle.forget()
    done.pass_time(monkeypatch, 4)
    assert done.deliver().result == "delivered"


def test_what_was_delivered_is_not_delivered_again(done: World) -> None:
    """A message that Redis gives out twice, or two shards that end together."""
    done.deliver()
    assert done.deliver() == delivery.NOTHING_TO_DO
    assert len(done.receiver.got) == 1


def test_what_another_is_at_is_left_to_it(done: World, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = done.ledger.read_batch("b1")
    write_callback(done.ledger, batch, done.callback.model_copy(update={"claimed_until": callback.later(20)}))
    assert done.deliver() == delivery.NOTHING_TO_DO
    assert done.reconcile() == []
    done.pass_time(monkeypatch, 60)
    assert done.reconcile() == [done.url], "it died with its claim"
    assert done.deliver() == Delivery("delivered")


def test_a_retry_of_failed_photos_calls_back_once_more(done: World) -> None:
    """Under an id of its own, once all of them are done."""
    done.deliver()
    done.source.put("001.jpg", b"face now")
    sent: list[ShardJob] = []
    retry(done.ledger, "b1", FakeBroker(sent.append), done.settings)
    assert done.callback.state == "waiting"
    assert done.deliver() == delivery.NOTHING_TO_DO
    done.asked.clear()
    done.work(*(job.shard for job in sent))
    assert done.asked == [done.url]
    done.deliver()
    first, second = done.receiver.got
    assert first.id != second.id
    assert [event["data"]["failed"] for event in done.receiver.events()] == [1, 0]


def test_a_retry_of_many_ends_the_batch_once(receiver: Receiver) -> None:
    """The first of several new shards, once done, is not the batch's end."""
    world = World(receiver, photos=9)
    for number in range(9):
        world.source.put(f"{number:03}.jpg", b"corrupt")
    world.work_all()
    world.deliver()

    def work_at_once(job: ShardJob) -> None:
        world.work(job.shard)

    world.asked.clear()
    retry(world.ledger, "b1", FakeBroker(work_at_once), world.settings)
    assert world.asked == [world.url]


def test_a_stopped_batch_calls_back_once_it_was_resumed_and_is_done(world: World) -> None:
    world.work(0, 1)
    world.ledger.stop("b1", "cancelled")
    world.work(2)
    assert world.asked == []
    assert world.deliver() == delivery.NOTHING_TO_DO
    world.ledger.clear_stop("b1")
    world.work(2)
    assert world.asked == [world.url]
    assert world.deliver().result == "delivered"


def test_a_stop_after_the_last_report_holds_the_callback_back(done: World) -> None:
    """Whoever cancelled it in that moment expects to hear no more of it, until it is resumed."""
    done.ledger.stop("b1", "cancelled")
    assert done.deliver() == delivery.NOTHING_TO_DO
    assert done.reconcile() == []
    done.ledger.clear_stop("b1")
    assert done.reconcile() == [done.url]
    assert done.deliver().result == "delivered"


def test_a_callback_that_nobody_was_told_of_is_found(done: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis was flushed, or the worker died after its report: the ledger knows. And asks are not piled up."""
    assert done.reconcile() == [done.url]
    assert done.reconcile() == [], "asked a moment ago"
    assert done.is_registered()
    done.pass_time(monkeypatch, done.settings.lease_s * callback.ASK_AGAIN + 1)
    assert done.reconcile() == [done.url], "that message was lost, too"
    done.deliver()
    assert done.reconcile() == []
    assert not done.is_registered()


def test_a_try_that_nobody_makes_is_found(done: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that waits in Redis for its next try is lost with Redis."""
    done.receiver.answers = [status(500), status(200)]
    done.deliver()
    done.pass_time(monkeypatch, 10)
    assert done.reconcile() == [], "whoever tried last may be about to"
    done.pass_time(monkeypatch, done.settings.lease_s)
    assert done.reconcile() == [done.url]


def test_a_batch_without_a_callback_is_closed_as_before(receiver: Receiver) -> None:
    world = World(receiver)
    world.ledger.write_batch(world.ledger.read_batch("b1").model_copy(update={"callback": None}))
    world.work_all()
    assert (world.asked, world.deliver()) == ([], delivery.NOTHING_TO_DO)
    assert world.reconcile() == []
    assert not world.is_registered()


def test_a_source_without_photos_ends_as_it_was_planned(receiver: Receiver) -> None:
    """No shard is there to report, so whoever plans it asks for the callback."""
    world = World(receiver, photos=0)
    world.after(0)
    assert world.asked == [world.url]
    assert world.deliver().result == "delivered"
    assert receiver.events()[0]["data"]["photos"] == 0


def test_near_its_end_alone_a_large_batch_is_listed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing after each of thousands of shards would cost more than the shards."""
    listed: list[str] = []
    real = Ledger.reported_shards
    monkeypatch.setattr(Ledger, "reported_shards", lambda self, id_: listed.append(id_) or real(self, id_))
    world.ledger.write_batch(world.ledger.read_batch("b1").model_copy(update={"shards": 1000}))
    for shard in (0, 500, 967):
        world.after(shard)
    assert listed == []
    world.after(968)
    assert (listed, world.asked) == (["b1"], [])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"callback_secrets": None}, "APF_CALLBACK_SECRETS"),
        ({"callback_allowed_hosts": ""}, "APF_CALLBACK_ALLOWED_HOSTS"),
        ({"callback_allow_http": False}, "APF_CALLBACK_ALLOW_HTTP"),
    ],
)
def test_what_the_operator_has_to_mend_is_kept_and_logged(
    done: World,
    settings: dict[str, Any],
    reason: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And once it is mended, the callback goes out."""
    fit = done.settings
    done.settings = Settings.model_validate({**fit.model_dump(), **settings})
    with caplog.at_level(logging.WARNING):
        assert done.deliver().result == "failed"
    assert reason in done.callback.last_error
    assert reason in caplog.text
    assert "hunter2" not in caplog.text + str(done.callback)
    assert done.receiver.got == []
    done.settings = fit
    done.pass_time(monkeypatch, 6)
    assert done.deliver().result == "delivered"


@pytest.mark.parametrize(("code", "tries"), [(410, 1), (404, REFUSED_TRIES), (400, REFUSED_TRIES)])
def test_a_receiver_that_says_no_is_believed(
    done: World, code: int, tries: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """410 at once, as the standard has it; that the request is wrong, after some tries."""
    done.receiver.answers = [status(code)]
    results = []
    for _ in range(tries):
        results.append(done.deliver().result)
        done.pass_time(monkeypatch, 3600)
    assert results == ["failed"] * (tries - 1) + ["gave_up"]
    assert str(code) in done.callback.last_error
    assert done.callback.state == "gave_up"
    assert "is given up" in caplog.text
    assert not done.is_registered()
    assert done.deliver() == delivery.NOTHING_TO_DO


@pytest.mark.parametrize("code", [302, 408, 425, 429, 500, 503])
def test_a_receiver_that_is_never_well_is_given_up_after_a_day(
    done: World, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    done.receiver.answers = [status(code)]
    for _ in range(12):
        assert done.deliver().result == "failed"
        done.pass_time(monkeypatch, 3600)
    assert done.is_registered()
    done.pass_time(monkeypatch, 12 * 3600)
    assert done.deliver() == Delivery("gave_up")
    assert not done.is_registered()


def test_a_receiver_may_ask_for_time(done: World) -> None:
    """But for no more than an hour; a task does not wait as long, and leaves it to the periodic pass."""
    done.receiver.answers = [status(429, Retry_After="120"), status(429, Retry_After="999999")]
    assert 119 < (done.deliver().again_s or 0) <= 120
    record = done.callback.model_copy(update={"next_try_at": ""})
    write_callback(done.ledger, done.ledger.read_batch("b1"), record)
    assert done.deliver() == Delivery("failed", None)
    assert 3590 < done.callback.due_in_s() <= 3600


def test_delays_double_up_to_an_hour_with_jitter() -> None:
    for count, full in [(1, 5), (2, 10), (3, 20), (7, 320), (11, 3600), (500, 3600)]:
        seen = {delay_after(count) for _ in range(50)}
        assert 0.75 * full <= min(seen) <= max(seen) <= full
        assert len(seen) > 10


@pytest.mark.parametrize("torn", [b"", b"{", b'{"end": 3'])
def test_torn_records_call_back_once_more_under_the_same_id(done: World, torn: bytes) -> None:
    """At least once: what cannot be read was not delivered. The receiver knows the id."""
    done.deliver()
    done.ledger.store.put(done.ledger.key("b1", RECORD), torn)
    done.ledger.store.put(done.ledger.key("b1", "callback", "00003.json"), torn)
    assert done.deliver().result == "delivered"
    assert len({got.id for got in done.receiver.got}) == 1
    assert done.receiver.got[1].verified()["data"]["photos"] == 5


@pytest.mark.parametrize(
    "changed", [{"batch": "b2"}, {"source": "s3://x"}, {"destination": "s3://x"}, {"tenant": "evil"}, None]
)
def test_a_body_of_another_batch_is_not_signed(done: World, changed: dict[str, str] | None) -> None:
    """Whoever can write into the ledger could else have any event signed: it is made anew, from the reports."""
    done.deliver()
    event = done.receiver.events()[0]
    planted = {**event, "data": {**event["data"], **changed}} if changed else json.loads(trial())
    done.ledger.store.put(done.ledger.key("b1", "callback", "00003.json"), json.dumps(planted).encode())
    done.ledger.store.delete(done.ledger.key("b1", RECORD))
    done.deliver()
    assert done.receiver.got[1].verified()["data"] == event["data"]


def test_a_worker_that_dies_of_a_batch_has_had_its_try(done: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The claim comes before the reports are read, so that others do not die of it at the same time; then it is given
    up in the end, as with a receiver that never answers.
    """
    with monkeypatch.context() as patched:
        patched.setattr(delivery, "batch_done", lambda *_: (_ for _ in ()).throw(MemoryError))
        for count in range(1, REFUSED_TRIES + 2):
            with pytest.raises(MemoryError):
                done.deliver()
            assert (done.callback.tries, bool(done.callback.claimed_by)) == (count, True)
            assert done.deliver() == delivery.NOTHING_TO_DO
            done.pass_time(monkeypatch, 120)
    done.pass_time(monkeypatch, 25 * 3600)
    assert done.deliver().result == "gave_up"
    assert "died" in done.callback.last_error


def test_a_torn_report_is_found_before_anything_is_posted(done: World) -> None:
    """The listing says that all is done: no try is counted, and reconciling has the shard done again."""
    done.ledger.store.put(done.ledger.key("b1", "reports", "00001.jsonl"), b"{")
    assert done.deliver() == delivery.NOTHING_TO_DO
    assert (done.callback.state, done.callback.tries, done.receiver.got) == ("waiting", 0, [])
    assert done.reconcile() == []
    done.work(1)
    assert done.deliver().result == "delivered"


def test_ids_differ_between_batches_and_ends(done: World) -> None:
    batch = done.ledger.read_batch("b1")
    others = [batch.model_copy(update=change) for change in ({"id": "b2"}, {"shards": batch.shards + 1})]
    assert len({webhook_id(done.ledger, b) for b in (batch, *others)}) == 3


def test_a_forged_batch_is_not_called_back(done: World) -> None:
    """Whoever can write somewhere into an allowed place could put a ledger there, and have a body signed."""
    forged = open_ledger("memory://public/uploads")
    forged.write_batch(done.ledger.read_batch("b1"))
    for shard in range(3):
        report = done.ledger.read_report("b1", shard)
        assert report is not None
        forged.write_report("b1", report)
    assert deliver(forged.batch_url("b1"), done.settings).result == "failed"
    assert done.receiver.got == []
    with pytest.raises(NotAllowed):
        deliver("memory://elsewhere/out/.apf/batches/b1", done.settings)


def test_a_callback_that_cannot_be_is_refused_when_it_is_asked_for(tmp_path: Path) -> None:
    """Before anything is written. Whether it may be reached is the workers' to say: they stand elsewhere."""
    (tmp_path / "in").mkdir()
    with pytest.raises(CallbackError, match="user or password"):
        new_batch(str(tmp_path / "in"), str(tmp_path / "out"), BatchOptions(callback="https://a:b@c/"), Settings())
    assert not (tmp_path / "out").exists()
    asked = BatchOptions(callback="https://hooks.internal/x")
    assert new_batch(str(tmp_path / "in"), str(tmp_path / "out"), asked, Settings())[1].callback == asked.callback


def test_secrets_are_in_no_object_of_the_store(done: World) -> None:
    """Whoever can read the output could forge callbacks."""
    done.deliver()
    public = open_store("memory://public")
    for info in [*public.list(), *public.list(".apf/"), *public.list("out/.apf/")]:
        assert SECRETS[0].removeprefix("whsec_").encode() not in public.get(info.key).data


def test_an_uploads_callback_says_the_same_at_every_try_and_is_kept_nowhere(receiver: Receiver) -> None:
    """A batch of one shard is told from its report each time, with that report's moment."""
    world = World(receiver, photos=1)
    world.work_all()
    assert world.asked == [world.url]
    receiver.answers = [status(500), status(200)]
    assert world.deliver().result == "failed"
    record = world.callback.model_copy(update={"next_try_at": ""})
    write_callback(world.ledger, world.ledger.read_batch("b1"), record)
    assert world.deliver().result == "delivered"
    first, second = receiver.got
    assert (first.id, first.body) == (second.id, second.body)
    assert not [name for name in world.ledger.names("b1") if name.startswith("callback/")]


def test_an_upload_that_is_stopped_after_its_report_is_called_back_once_it_is_resumed(receiver: Receiver) -> None:
    """Its report is read after the claim: the claim leaves no try behind."""
    world = World(receiver, photos=1)
    world.work_all()
    world.ledger.stop("b1", "paused")
    assert world.deliver() == delivery.NOTHING_TO_DO
    assert (world.callback.tries, world.callback.claimed_by, receiver.got) == (0, "", [])
    world.ledger.clear_stop("b1")
    assert world.deliver().result == "delivered"


def test_a_report_that_a_planner_missed_calls_back(receiver: Receiver) -> None:
    """The batch was planned to its end between the worker's look at its record and its report."""
    world = World(receiver, photos=1)
    seen = world.ledger.read_batch("b1").model_copy(update={"planned": False})
    run_shard(ShardJob(batch_url=world.url, shard=0), world.settings, load=lambda *_: FakeEngine())
    world.after(0, seen)
    assert world.asked == [world.url]


def test_of_two_workers_that_see_no_try_one_posts(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have listed the upload before either claimed it: the store takes one first record, and one POST is made."""
    world = World(receiver, photos=1)
    world.work_all()
    real, inside = Ledger.names, []

    def listed(self: Ledger, batch_id: str, prefix: str = "") -> list[str]:
        names = real(self, batch_id, prefix)
        if not inside:
            inside.append(True)
            assert world.deliver().result == "delivered"  # the other worker, in between
        return names

    monkeypatch.setattr(Ledger, "names", listed)
    assert world.deliver() == delivery.NOTHING_TO_DO
    assert len(receiver.got) == 1 and world.callback.delivered_at


def test_a_store_without_conditions_takes_the_first_record_all_the_same(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim is then written, and read once more."""
    put = MemoryStore.put

    def refuses(self: MemoryStore, key: str, data: bytes, *, over: str | None = None, **options: Any) -> ObjectInfo:
        if over is not None:
            raise NoConditions("no conditional writes here")
        return put(self, key, data, **options)

    monkeypatch.setattr(MemoryStore, "put", refuses)
    world = World(receiver, photos=1)
    world.work_all()
    assert world.deliver().result == "delivered"
    assert len(receiver.got) == 1 and world.callback.tries == 1
