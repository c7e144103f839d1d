"""One photo of a batch is found by a few plans, and never by all of its reports."""

from __future__ import annotations

import pytest

from apf.recipe import load_recipe
from tests.memory_store import MemoryStore
from workers.core.records import Batch, Outcome, PhotoRef, PhotoReport, ShardReport
from workers.ledger.batch_ledger import Ledger
from workers.status.find_photo import find_photo

SHARDS = 50
RECIPE = load_recipe("light")


def report(shard: int, keys: list[str], outcome: Outcome) -> ShardReport:
    photos = tuple(PhotoReport(key=key, etag="e", outcome=outcome) for key in keys)
    return ShardReport(
        shard=shard, photos=photos, stage_seconds={}, wall_seconds=0, worker="w", peak_memory_bytes=0,
        finished_at="2026-01-01T00:00:00+00:00",
    )  # fmt: skip


@pytest.fixture
def ledger() -> Ledger:
    """Fifty shards of two photos; the 20th is empty, as a plan that was made anew may be; one photo is retried."""
    made = Ledger(MemoryStore(f"memory://find-{id(object())}"), ".apf")
    for shard in range(SHARDS):
        keys = [] if shard == 20 else [f"{shard:03}a.jpg", f"{shard:03}b.jpg"]
        made.write_plan("b", shard, [PhotoRef(key=key, etag="e", size=1) for key in keys])
        if shard != 30:
            made.write_report("b", report(shard, keys, Outcome.failed if shard == 7 else Outcome.protected))
    made.write_plan("b", SHARDS, [PhotoRef(key="007a.jpg", etag="e", size=1)])
    return made


BATCH = Batch(
    id="b", source="memory://in", destination="memory://out", recipe=RECIPE, created_at="2026-01-01T00:00:00+00:00",
    planned=True, shards=SHARDS + 1, first_retry=SHARDS, photos=98,
)  # fmt: skip


def test_each_photo_is_found(ledger: Ledger) -> None:
    """The last try counts: a photo that is retried is pending until that is reported."""
    for shard in range(SHARDS):
        for letter in "ab":
            key = f"{shard:03}{letter}.jpg"
            found = find_photo(ledger, BATCH, key)
            if shard == 20:
                assert found is None
            elif shard == 30 or key == "007a.jpg":
                assert found == "pending"
            else:
                assert isinstance(found, PhotoReport) and found.key == key
    ledger.write_report("b", report(SHARDS, ["007a.jpg"], Outcome.protected))
    found = find_photo(ledger, BATCH, "007a.jpg")
    assert isinstance(found, PhotoReport) and found.outcome is Outcome.protected


def test_other_keys_are_none(ledger: Ledger) -> None:
    """Before the first, behind the last, in between."""
    for key in ("000.jpg", "zzz.jpg", "012aa.jpg"):
        assert find_photo(ledger, BATCH, key) is None


def test_few_plans_are_read(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """By halving: of fifty, no more than a dozen."""
    read: list[int] = []
    plan = Ledger.read_plan
    monkeypatch.setattr(
        Ledger, "read_plan", lambda self, batch, shard: (read.append(shard), plan(self, batch, shard))[1]
    )
    find_photo(ledger, BATCH, "041b.jpg")
    assert len(read) <= 12
