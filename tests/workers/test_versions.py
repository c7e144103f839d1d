"""Old and new installations side by side: what an older one makes of a newer one's records, as docs/running.md says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import create_model

from apf.errors import OtherVersion
from apf.recipe import VERSION
from apf.weight_files import weights_digest
from tests.workers.batches.test_rescue import World
from tests.workers.execution.test_run_shard import Planned
from tests.workers.execution.test_shard_pipeline import make_batch
from workers import tasks
from workers.config.settings import Settings
from workers.core.records import Batch, ShardJob, VersionedRecord, parse
from workers.core.task_names import TASK
from workers.errors import JobError, LedgerError, NewerRecord
from workers.execution.load_engine import load_engine
from workers.execution.run_shard import report_lost_shard, run_shard
from workers.ledger.batch_ledger import Ledger
from workers.ledger.leases import ShardLease, attempts_at
from workers.schedules.models import Schedule
from workers.schedules.trigger import Trigger
from workers.status.batch_status import BatchMonitor

QUEUE = Settings(broker_url="redis://x", allowed_urls="*")


def with_field(ledger: Ledger, *names: str, line: int | None = None) -> None:
    """A newer version wrote the record: it has a field that nobody here knows. `line` of a .jsonl object, from 0."""
    key = ledger.key("b1", *names)
    lines = ledger.store.get(key).data.decode().split("\n")
    text = "\n".join(lines) if line is None else lines[line]
    changed = json.dumps({**json.loads(text), "from_the_future": 1})
    lines = [changed] if line is None else [*lines[:line], changed, *lines[line + 1 :]]
    ledger.store.put(key, "\n".join(lines).encode())


def newer_file(ledger: Ledger, *names: str) -> None:
    """The .jsonl object is of the next version."""
    key = ledger.key("b1", *names)
    data = ledger.store.get(key).data
    changed = data.replace(b'"version":1', b'"version":2', 1)
    assert changed != data
    ledger.store.put(key, changed)


@pytest.mark.parametrize("record", ["batch", "recipe", "photo", "plan"])
def test_a_shard_of_a_newer_record_stays_open(record: str) -> None:
    """Neither running it nor giving it up writes a report: it is left to a newer worker, which then does all of it."""
    planned = Planned(f"newer-{record}", b"one", b"two")
    keys = [planned.ledger.key("b1", "batch.json"), planned.ledger.key("b1", "plan", "00000.jsonl")]
    kept = {key: planned.destination.get(key).data for key in keys}
    if record == "batch":
        with_field(planned.ledger, "batch.json")
    elif record == "recipe":
        batch = json.loads(kept[keys[0]])
        batch["recipe"]["from_the_future"] = 1
        planned.destination.put(keys[0], json.dumps(batch).encode())
    elif record == "photo":
        with_field(planned.ledger, "plan", "00000.jsonl", line=1)
    else:
        newer_file(planned.ledger, "plan", "00000.jsonl")
    with pytest.raises(NewerRecord, match="upgrade this installation"):
        planned.run()
    with pytest.raises(NewerRecord):
        report_lost_shard(planned.job, Settings(), RuntimeError("x"))
    assert not planned.ledger.has_report("b1", 0)
    assert attempts_at(planned.ledger, "b1") == [], "leaving it is no death"
    for key, data in kept.items():  # what the newer worker knows how to read
        planned.destination.put(key, data)
    assert planned.run().protected == 2


def older(record: type[VersionedRecord]) -> Any:
    """The record as it was before it grew."""
    known = {name: (field.annotation, field) for name, field in record.model_fields.items()}
    before = {name: known[name] for name in known if name not in record.newer_fields}
    return create_model("Older", __config__=record.model_config, **before)  # type: ignore[call-overload]


NIGHTLY = Schedule(
    name="nightly", source="s3://a", destination="s3://b", recipe={"name": "light"},
    trigger=Trigger(every_s=60, first="2026-01-01T00:00:00+00:00"), created_at="2026-01-01T00:00:00+00:00",
)  # fmt: skip


@pytest.mark.parametrize("record", [make_batch("s3://a", "s3://b"), NIGHTLY], ids=["batch", "schedule"])
def test_an_older_version_reads_all_but_private_records(record: VersionedRecord) -> None:
    """One of photos is written without the fields that came later; a private one is left to newer workers, and never
    taken for photos.
    """
    before = older(type(record))
    assert "private" in record.newer_fields
    same = before.model_validate_json(record.model_dump_json())
    assert same.model_dump() == record.model_dump()
    private = record.model_copy(update={"private": True})
    with pytest.raises(NewerRecord, match=r"private: Extra inputs.*upgrade this installation"):
        parse(before, private.model_dump_json(), LedgerError, "record")
    assert parse(type(record), private.model_dump_json(), LedgerError, "record") == private


def test_a_kind_of_batch_that_nobody_knows_yet_is_left_alone() -> None:
    """It is a field of its own, as `private` was: whoever does not know it refuses the batch."""
    record = json.loads(make_batch("s3://a", "s3://b").model_dump_json())
    with pytest.raises(NewerRecord, match="video: Extra inputs"):
        parse(Batch, json.dumps({**record, "video": True}), LedgerError, "batch.json")


def test_a_newer_message_is_refused_and_reports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message is dropped, the shard stays open; reconciling sends it again."""
    planned = Planned("newer-message", b"one")
    message = {**planned.job.encode(), "from_the_future": 1}
    with pytest.raises(JobError, match="from_the_future") as refused:
        ShardJob.decode(message)
    monkeypatch.setattr(tasks, "report_lost_shard", None)
    sender: Any = type("Sender", (), {"name": TASK, "app": None})
    tasks.after_failure(sender, exception=refused.value, args=[message])
    assert not planned.ledger.has_report("b1", 0)


@pytest.mark.parametrize("error", [NewerRecord("new"), OtherVersion("other")])
def test_a_task_that_is_of_another_version_gives_nothing_up(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """After the failed task no photo is reported as failed, and the shard is not sent to the same workers at once."""
    monkeypatch.setattr(tasks, "report_lost_shard", None)
    monkeypatch.setattr(tasks, "Broker", None)
    sender: Any = type("Sender", (), {"name": TASK, "app": None})
    tasks.after_failure(sender, exception=error, args=[{"batch_url": "memory://x/.apf/batches/b1", "shard": 0}])


@pytest.mark.parametrize("change", [{"weights": "0" * 64}, {"version": VERSION + 1}, {"version": VERSION - 1}])
def test_a_recipe_of_another_version_waits_for_its_workers(change: dict[str, object]) -> None:
    """On a queue the shard stays open. Alone, where nobody else can come, its photos fail with the cure."""
    planned = Planned(f"other-{next(iter(change.values()))}", b"one")
    recipe = planned.batch.recipe.model_copy(update=change)
    planned.ledger.write_batch(planned.batch.model_copy(update={"recipe": recipe}))
    with pytest.raises(OtherVersion, match="install the same version everywhere"):
        run_shard(planned.job, QUEUE, load=load_engine)
    assert not planned.ledger.has_report("b1", 0)
    assert attempts_at(planned.ledger, "b1") == [], "leaving it is no death"
    run = run_shard(planned.job, Settings(), load=load_engine)
    assert run is not None
    assert run.totals.failed == 1
    report = planned.ledger.read_report("b1", 0)
    assert report is not None
    assert "install the same version everywhere" in str(report.photos[0].reason)


def test_a_done_shard_needs_no_filter_of_its_version() -> None:
    """Outputs that are there already are reported by a worker of any version: nothing is computed."""
    planned = Planned("other-done", b"one")
    recipe = planned.batch.recipe.model_copy(update={"version": VERSION + 1})
    assert recipe.weights == weights_digest()
    planned.ledger.write_batch(planned.batch.model_copy(update={"recipe": recipe}))
    planned.run(QUEUE)  # a worker of that version
    planned.destination.delete(planned.ledger.key("b1", "reports", "00000.jsonl"))
    run = run_shard(planned.job, QUEUE, load=load_engine)
    assert run is not None
    totals = run.totals
    assert (totals.protected + totals.skipped, totals.failed) == (1, 0)


def test_a_newer_workers_report_counts_with_fields_that_nobody_knows_yet() -> None:
    """More may be told than is understood: the shard is done, and its photos are counted as that worker says."""
    planned = Planned("newer-report", b"one", b"corrupt")
    planned.run()
    for line in (0, 1, 2):
        with_field(planned.ledger, "reports", "00000.jsonl", line=line)
    assert planned.run() is None, "done"
    summary = BatchMonitor(planned.ledger, "b1").poll()
    assert (summary.protected, summary.failed, summary.done) == (1, 1, True)


def test_a_report_of_the_next_version_is_not_taken_for_a_torn_one() -> None:
    """A torn one counts as none, and its shard runs again; a newer one is left alone, and says that it is newer."""
    planned = Planned("newer-report-version", b"one")
    planned.run()
    newer_file(planned.ledger, "reports", "00000.jsonl")
    for read in (planned.run, BatchMonitor(planned.ledger, "b1").poll):
        with pytest.raises(NewerRecord, match="of version 2, newer than 1"):
            read()
    assert planned.engine.batches == [1], "it did not run again"


def test_a_newer_workers_try_counts() -> None:
    """Its shard is not sent to somebody else while it runs, and its death is one."""
    planned = Planned("newer-try", b"one")
    lease = ShardLease(planned.ledger, "b1", 0, lease_s=60)
    lease.beat()
    (attempt,) = attempts_at(planned.ledger, "b1")
    with_field(planned.ledger, "attempts", "00000", f"{attempt.id}.json")
    assert attempts_at(planned.ledger, "b1") == [attempt]


@pytest.mark.parametrize("newer", ["photo", "version"])
def test_reconciling_leaves_a_newer_plan_alone(newer: str) -> None:
    """A torn plan is made anew; a newer one is whole, and is neither written over nor sent, but left for later."""
    world = World()
    world.plan()
    names = ("plan", "00001.jsonl")
    if newer == "photo":
        with_field(world.ledger, *names, line=1)
    else:
        newer_file(world.ledger, *names)
    torn = world.ledger.key("b1", "plan", "00000.jsonl")
    world.ledger.store.put(torn, b"{}")
    before = world.ledger.store.get(world.ledger.key("b1", *names)).data
    world.sent.clear()
    assert world.reconcile() == []
    assert world.ledger.store.get(world.ledger.key("b1", *names)).data == before


@pytest.mark.parametrize("record", [make_batch("s3://a", "s3://b"), NIGHTLY], ids=["batch", "schedule"])
def test_an_older_version_leaves_records_with_patterns_alone(record: VersionedRecord) -> None:
    """It would protect what was to be left out."""
    excluding = record.model_copy(update={"exclude": ("drafts/",)})
    with pytest.raises(NewerRecord, match=r"exclude: Extra inputs.*upgrade this installation"):
        parse(older(type(record)), excluding.model_dump_json(), LedgerError, "record")
    assert parse(type(record), excluding.model_dump_json(), LedgerError, "record") == excluding


@pytest.mark.parametrize("record", [make_batch("s3://a", "s3://b"), NIGHTLY], ids=["batch", "schedule"])
def test_an_older_version_leaves_records_whose_weak_photos_fail_alone(record: VersionedRecord) -> None:
    """It would publish them."""
    failing = record.model_copy(update={"on_weak": "fail"})
    with pytest.raises(NewerRecord, match=r"on_weak: Extra inputs.*upgrade this installation"):
        parse(older(type(record)), failing.model_dump_json(), LedgerError, "record")
    assert parse(type(record), failing.model_dump_json(), LedgerError, "record") == failing
