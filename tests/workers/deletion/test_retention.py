"""What ended long ago leaves the ledger, and nothing that is still to be done."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.workers.deletion.test_forget import named_batch
from tests.workers.fakes import FakeBroker
from tests.workers.schedules.world import World, world
from workers.batches.create import BatchOptions, create_batch
from workers.batches.rescue import plan_and_send
from workers.core.records import Batch
from workers.deletion import retention
from workers.deletion.retention import prune, prune_ended
from workers.ledger.audit import acts
from workers.ledger.callback_state import later, new_callback, write_callback
from workers.ledger.leases import ShardLease
from workers.ledger.lifecycle import cancel, close
from workers.status.batch_status import BatchMonitor
from workers.store import open_store

__all__ = ["world"]

KEEP = 30.0


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Days that retention's clock is ahead."""
    ahead = [0.0]
    monkeypatch.setattr(retention, "now", lambda: datetime.now(UTC) + timedelta(days=ahead[0]))
    yield ahead


def a_batch(world: World, *, work: bool = True, **asked: object) -> Batch:
    options = BatchOptions(recipe="light", **asked)  # type: ignore[arg-type]
    ledger, batch = create_batch(world.source.url, world.destination.url, options, world.settings)
    batch = plan_and_send(ledger, batch.id, FakeBroker(world.sent.append), world.settings)
    if work:
        world.work()
    return batch


def test_what_ended_goes_after_so_many_days(world: World, clock: list[float]) -> None:
    """Its records whole, and not a day before; outputs and the audit log stay, and a run finds them protected."""
    world.photos("a", "b")
    batch = a_batch(world)
    clock[0] = KEEP - 0.1
    assert prune(world.ledger, KEEP, world.settings) == 0
    clock[0] = KEEP + 0.1
    assert prune(world.ledger, KEEP, world.settings) == 1
    assert list(world.ledger.store.list(world.ledger.key(batch.id, ""))) == []
    assert [(act.who, act.facts["batches"]) for act in acts(world.ledger)] == [("reconcile", 1)]
    assert len(list(world.destination.list())) == 2
    again = a_batch(world)
    assert BatchMonitor(world.ledger, again.id).poll().skipped == 2


@pytest.mark.parametrize("why", ["open", "unplanned", "paused", "callback", "schedule", "worker", "registered"])
def test_what_is_still_to_be_done_is_kept(world: World, clock: list[float], why: str) -> None:
    """For ever, whatever it is that is not done; afterwards it goes."""
    world.photos("a", "b")
    match why:
        case "open":
            batch = a_batch(world, work=False)
        case "unplanned":
            asked = BatchOptions(recipe="light")
            batch = create_batch(world.source.url, world.destination.url, asked, world.settings)[1]
        case "paused":
            batch = a_batch(world, work=False)
            world.ledger.stop(batch.id, "paused")
        case "callback":
            batch = a_batch(world, callback="https://backend/hook")
        case "schedule":
            world.add()
            world.run()
            batch = world.run_batches()[0]
        case "worker":
            batch = a_batch(world)
            ShardLease(world.ledger, batch.id, 0, lease_s=60).beat()
        case "registered":
            _, batch = named_batch(world, "a.jpg")
            from tests.workers.fakes import FakeEngine  # noqa: PLC0415
            from workers.execution.run_shard import run_shard  # noqa: PLC0415

            for job in world.sent:
                run_shard(job, world.settings, load=lambda *_: FakeEngine())
            world.sent.clear()
    clock[0] = 1000
    assert prune(world.ledger, KEEP, world.settings) == 0
    match why:
        case "open" | "registered":
            world.work()
            close(world.ledger, batch, world.settings)
        case "unplanned" | "paused":
            cancel(world.ledger, batch, world.settings)
            world.ledger.store.delete(world.ledger.key(batch.id, "paused"))
        case "callback":
            settled = new_callback(world.ledger, batch).model_copy(update={"delivered_at": later(0)})
            write_callback(world.ledger, batch, settled)
            close(world.ledger, batch, world.settings)
        case "schedule":
            world.tick(0.5)
        case "worker":
            for info in world.ledger.store.list(world.ledger.key(batch.id, "attempts", "")):
                world.ledger.store.delete(info.key)
    assert prune(world.ledger, KEEP, world.settings) == 1


def test_a_pass_is_once_a_day_and_only_where_it_is_set(world: World, clock: list[float]) -> None:
    """It finds ledgers of open batches, of schedules and of the place itself."""
    world.photos("a")
    old = a_batch(world)
    a_batch(world, work=False)
    clock[0] = KEEP + 1
    assert prune_ended(["memory://out"], world.settings) == 0
    keeping = world.settings.model_copy(update={"ledger_keep": KEEP})
    assert prune_ended(["memory://out"], keeping) == 1
    assert not world.ledger.has_batch(old.id)
    world.work()
    for batch_id in world.ledger.batches():
        close(world.ledger, world.ledger.read_batch(batch_id), world.settings)
    clock[0] = KEEP + 1.5
    world.add(every=10**6)
    assert prune_ended(["memory://out"], keeping) == 0, "half a day later"
    clock[0] = KEEP + 2.1
    assert prune_ended(["memory://out"], keeping) == 1, "by the schedule's destination"


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_all_ledgers_of_a_place_of_their_own_are_found(
    world: World, clock: list[float], kind: str, tmp_path: Path
) -> None:
    """Below APF_LEDGER_URL, whatever their destinations."""
    place = "memory://ledgers" if kind == "memory" else tmp_path.as_uri()
    open_store(place, create=True)
    settings = world.settings.model_copy(
        update={"ledger_url": place, "ledger_keep": KEEP, "allowed_urls": f"memory://in memory://out {place}"}
    )
    world.settings = settings
    world.photos("a")
    a_batch(world)
    clock[0] = KEEP + 1
    assert prune_ended([place], settings) == 1


def test_what_was_taken_back_is_swept(world: World, clock: list[float]) -> None:
    """Objects under an id that has no record."""
    world.photos("a")
    batch = a_batch(world)
    world.ledger.forget_batch(batch.id)
    clock[0] = KEEP + 1
    assert prune(world.ledger, KEEP, world.settings) == 1
    assert world.ledger.batch_ids() == []
