"""A platform in memory for tests of schedules: its clock is set by hand, its worker runs when it is told to."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from apf.recipe import recipe_fields
from tests.memory_store import MemoryStore
from tests.workers.fakes import FakeBroker, FakeEngine
from workers.batches.create import find_ledger
from workers.batches.plan import PlannerConflict
from workers.batches.rescue import plan_and_send
from workers.config.settings import Settings
from workers.core.records import Batch, PhotoRef, ShardJob
from workers.execution.run_shard import run_shard
from workers.ledger.batch_ledger import open_batch
from workers.ledger.lifecycle import close
from workers.schedules.fire import Fired, run_due
from workers.schedules.models import Run, Schedule, State
from workers.schedules.repository import ScheduleRepository, repository_for
from workers.schedules.status import Overview, overview
from workers.schedules.trigger import Trigger
from workers.store import open_store

START = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


class World:
    """Photos in memory://in, a destination in memory://out/public, and a queue that is a list."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("in", "out"):
            MemoryStore(f"memory://{name}").clear()
        self.now = START
        monkeypatch.setattr(MemoryStore, "clock", lambda _: self.now)
        self.settings = Settings(
            broker_url="redis://x", allowed_urls="memory://in memory://out", shard_photos=3, schedule_every_s=60
        )
        self.source, self.destination = open_store("memory://in"), open_store("memory://out/public")
        self.repository: ScheduleRepository = repository_for("memory://out/public", self.settings)
        self.ledger = find_ledger("memory://out/public", self.settings)
        self.sent: list[ShardJob] = []

    def photos(self, *keys: str, text: str = "face") -> None:
        for key in keys:
            self.source.put(f"{key}.jpg", f"{text} {key} {self.now}".encode())

    def add(self, name: str = "nightly", *, every: float = 3600, recipe: str = "light", **fields: Any) -> Schedule:
        trigger = Trigger(cron=fields.pop("cron"), first=self.now.isoformat()) if "cron" in fields else None
        schedule = Schedule(
            name=name, source=self.source.url, destination=self.destination.url,
            trigger=trigger or Trigger(every_s=every, first=self.now.isoformat()),
            recipe=recipe_fields(recipe), created_at=self.now.isoformat(), **fields,
        )  # fmt: skip
        self.repository.write(schedule)
        return schedule

    def change(self, name: str = "nightly", **fields: Any) -> None:
        self.repository.write(Schedule.model_validate({**self.repository.read(name).model_dump(), **fields}))

    def tick(self, hours: float = 0) -> list[Fired]:
        """Some time passes, then the periodic task runs."""
        self.now += timedelta(hours=hours)
        return run_due(self.settings, self.broker, now=lambda: self.now)

    @property
    def broker(self) -> FakeBroker:
        """One whose workers plan at once."""

        def plan(batch_url: str) -> None:
            ledger, batch_id = open_batch(batch_url)
            with suppress(PlannerConflict):
                plan_and_send(ledger, batch_id, FakeBroker(self.sent.append), self.settings)

        return FakeBroker(self.sent.append, plan=plan)

    def work(self) -> None:
        """A worker does all that waits."""
        for job in self.sent:
            run_shard(job, self.settings, load=lambda *_: FakeEngine())
            ledger, batch_id = open_batch(job.batch_url)
            close(ledger, ledger.read_batch(batch_id), self.settings)
        self.sent.clear()

    def run(self, hours: float = 0) -> list[str]:
        """The periodic task, what it has done, and the keys that its batches planned."""
        self.tick(hours)
        planned = [ref.key.removesuffix(".jpg") for batch in self.run_batches() for ref in self.plan(batch)]
        self.work()
        return planned

    def state(self, name: str = "nightly") -> State:
        return self.repository.state(name)

    def last(self, name: str = "nightly") -> Run:
        run = self.state(name).run
        assert run is not None
        return run

    def overview(self, name: str = "nightly") -> Overview:
        return overview(self.repository, name, self.settings)

    def run_batches(self, name: str = "nightly") -> list[Batch]:
        run = self.state(name).run
        return [self.ledger.read_batch(part.batch) for part in run.parts] if run else []

    def plan(self, batch: Batch) -> list[PhotoRef]:
        return [ref for shard in range(batch.shards) for ref in self.ledger.read_plan(batch.id, shard)]

    def recipes(self) -> dict[str, str]:
        """The recipe of each output, by key."""
        infos = (self.destination.head(info.key) for info in self.destination.list())
        return {info.key.removesuffix(".jpg"): info.metadata["apf-recipe"] for info in infos if info}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)
