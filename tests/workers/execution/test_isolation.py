"""A photo that kills its worker costs itself, and nothing of its shard. With real kills: tests/faults."""

from __future__ import annotations

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from tests.workers.execution.test_run_shard import Planned
from tests.workers.fakes import FakeEngine
from tests.workers.ledger.test_leases import died
from workers.config.settings import Settings
from workers.core.records import Outcome
from workers.execution.isolation import POISON_AFTER, SPLIT_AFTER
from workers.ledger.leases import ShardLease, attempts_at, crash_counts


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The photos that were named in the ledger, in order."""
    names: list[str | None] = []
    hold = ShardLease.hold

    def spy(lease: ShardLease, photo: str | None) -> None:
        names.append(photo)
        hold(lease, photo)

    monkeypatch.setattr(ShardLease, "hold", spy)
    return names


def test_one_death_changes_nothing(held: list[str | None]) -> None:
    planned = Planned("poison-one", *[b"x"] * 5)
    died(planned.ledger)
    assert planned.run().protected == 5
    assert held == []
    assert max(planned.engine.batches) > 1


def test_after_two_deaths_each_photo_is_named_before_it_is_touched(held: list[str | None]) -> None:
    planned = Planned("poison-two", *[b"x"] * 3)
    for _ in range(SPLIT_AFTER):
        died(planned.ledger)
    assert planned.run().protected == 3
    assert held == ["000.jpg", "001.jpg", "002.jpg", None]
    assert planned.engine.batches == [1, 1, 1]


def test_a_photo_that_killed_comes_last_and_the_third_time_not_at_all(held: list[str | None]) -> None:
    planned = Planned("poison-three", *[b"x"] * 3)
    for photo in (None, None, "000.jpg", *["001.jpg"] * POISON_AFTER):
        died(planned.ledger, photo)
    totals = planned.run()
    assert (totals.protected, totals.failed) == (2, 1)
    assert held == ["002.jpg", "000.jpg", None]
    report = planned.ledger.read_report("b1", 0)
    assert report is not None
    assert [photo.outcome for photo in report.photos] == [Outcome.protected, Outcome.failed, Outcome.protected]
    assert "died or ran out of time 5 times over it" in str(report.photos[1].reason)
    assert [photo.attempts for photo in report.photos] == [4, 6, 3]


def test_a_photo_that_takes_too_long_is_named(held: list[str | None]) -> None:
    """The soft limit stops the shard in the middle of it; that is a death, though the process lives."""
    planned = Planned("poison-slow", b"x", b"slow", b"x")
    for _ in range(SPLIT_AFTER):
        died(planned.ledger)

    class Slow(FakeEngine):
        def protect(self, photos: object, clock: object) -> list[object]:
            if photos[0].data == b"slow":  # type: ignore[index]
                raise SoftTimeLimitExceeded
            return super().protect(photos, clock)  # type: ignore[arg-type]

    planned.engine = Slow()
    for count in range(1, POISON_AFTER + 1):
        with pytest.raises(SoftTimeLimitExceeded):
            planned.run()
        assert crash_counts(attempts_at(planned.ledger, "b1", 0)).by_photo == {"001.jpg": count}
    assert (planned.run().protected, held[-1]) == (2, None)


def test_a_stop_reaches_photos_taken_one_by_one() -> None:
    planned = Planned("poison-stopped", *[b"x"] * 50)
    for _ in range(SPLIT_AFTER):
        died(planned.ledger)
    hold = ShardLease.hold

    def stop_at_the_third(lease: ShardLease, photo: str | None) -> None:
        hold(lease, photo)
        if photo == "002.jpg":
            planned.ledger.stop("b1", "paused")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ShardLease, "hold", stop_at_the_third)
        planned.engine.decode_s = 0.02
        assert planned.run(Settings(progress_interval_s=0.05)) is None
    assert 2 <= len(planned.engine.batches) < 50
    assert not planned.ledger.has_report("b1", 0)
