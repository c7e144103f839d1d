"""A ledger that the version before the rooms wrote (commit 9a47211) is read, rescued, resumed, retried and reported.

`tests/data/ledger_before_rooms.json` holds its objects by their keys. Batch `half` was planned up to its second shard:
one is reported, with a photo that failed, and the worker of the other was killed. Batch `done` is reported whole, with
the same failed photo, and its callback was refused once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.memory_store import MemoryStore
from tests.receivers import LOOPBACK, receiving
from tests.workers.fakes import FakeBroker, FakeEngine
from workers.batches.create import find_batch
from workers.batches.rescue import reconcile, resume
from workers.batches.retry import retry
from workers.callbacks.deliver import deliver
from workers.config.settings import Settings
from workers.core.records import ShardJob
from workers.execution.run_shard import run_shard
from workers.ledger.batch_ledger import Ledger
from workers.ledger.open_batches import roots
from workers.status.as_json import json_object
from workers.status.batch_status import BatchMonitor
from workers.store import open_store

OLD = Path(__file__).parents[1] / "data" / "ledger_before_rooms.json"
OUT = "memory://old-public/out"
SETTINGS = Settings.model_validate(
    {"broker_url": "redis://x", "allowed_urls": "memory://old-source memory://old-public", **LOOPBACK}
)


@pytest.fixture(autouse=True)
def _stores() -> Iterator[None]:
    """The ledger as it was, the photos that it names, and the output of its one protected photo of batch `half`."""
    for name in ("old-source", "old-public"):
        MemoryStore(f"memory://{name}").clear()
    source, public = open_store("memory://old-source/in"), open_store("memory://old-public")
    for number in range(8):
        source.put(f"{number:03}.jpg", b"corrupt" if number == 1 else b"face %d" % number)
    for key, text in json.loads(OLD.read_text()).items():
        public.put(key, text.encode())
    yield


def ledger_of(batch: str) -> Ledger:
    return find_batch(OUT, batch, SETTINGS)[0]


def work(jobs: list[ShardJob]) -> None:
    """A worker of today does what was sent."""
    while jobs:
        assert run_shard(jobs.pop(0), SETTINGS, load=lambda *_: FakeEngine()) is not None


def test_its_status_is_read() -> None:
    half, done = (BatchMonitor(ledger_of(name), name).poll() for name in ("half", "done"))
    assert (half.photos, half.protected, half.failed, half.pending, half.done) == (4, 1, 1, 2, False)
    assert (half.batch.tenant, half.batch.exclude, half.batch.planned) == ("acme", ("*.tmp",), False)
    assert (done.photos, done.protected, done.skipped, done.failed, done.done) == (8, 6, 1, 1, True)
    told = json_object(done)
    assert told["recipe"] == "light"
    assert told["callback"]["state"] == "retrying"
    assert [one["key"] for one in told["failures"]] == ["001.jpg"]


def test_a_pass_rescues_the_lost_shard_and_plans_on() -> None:
    """As the clock's pass does: the killed worker's shard is sent, a worker is asked to plan, a callback is due."""
    jobs: list[ShardJob] = []
    asked: list[str] = []
    planned: list[str] = []
    broker = FakeBroker(jobs.append, callback=asked.append, plan=planned.append)
    assert reconcile(roots(SETTINGS), broker, SETTINGS) == {"half": 1}
    assert [job.shard for job in jobs] == [1]
    assert planned == [f"{OUT}/.apf/batches/half"]
    assert asked == [f"{OUT}/.apf/batches/done"]


def test_it_is_resumed_retried_and_reported() -> None:
    """All photos get their outcome; once the photo is mended, a retry protects it; the sums are those of today."""
    jobs: list[ShardJob] = []
    ledger = ledger_of("half")
    assert resume(ledger, "half", FakeBroker(jobs.append), SETTINGS) == 1
    assert sorted(job.shard for job in jobs) == [1, 2, 3]
    work(jobs)
    summary = BatchMonitor(ledger, "half").poll()
    assert (summary.photos, summary.protected, summary.failed, summary.missing, summary.done) == (8, 7, 1, 0, True)
    open_store("memory://old-source/in").put("001.jpg", b"mended")
    assert retry(ledger, "half", FakeBroker(jobs.append), SETTINGS) == 1
    work(jobs)
    summary = BatchMonitor(ledger, "half").poll()
    assert (summary.protected, summary.failed, summary.done) == (8, 0, True)
    assert json_object(summary)["protected"] == 8


def test_its_callback_is_delivered_under_the_id_that_it_had() -> None:
    """The receiver moved meanwhile: the record's URL is another, the rest is the old version's."""
    ledger = ledger_of("done")
    with receiving() as receiver:
        ledger.write_batch(ledger.read_batch("done").model_copy(update={"callback": receiver.url}))
        assert deliver(ledger.batch_url("done"), SETTINGS).result == "delivered"
    (got,) = receiver.got
    assert got.id == json.loads(json.loads(OLD.read_text())["out/.apf/batches/done/callback.json"])["id"]
    data = got.verified()["data"]
    assert (data["photos"], data["protected"], data["failed"]) == (8, 6, 1)
