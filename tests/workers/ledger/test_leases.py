"""Who is at a shard and who died there, from what the ledger holds."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import timedelta

import pytest

from tests.memory_store import MemoryStore
from workers.core import clock
from workers.core.records import Attempt, Totals
from workers.errors import StoreUnavailable
from workers.ledger.batch_ledger import Ledger, open_ledger
from workers.ledger.leases import ShardLease, attempts_at, crash_counts, is_live, release_leases, renewed


@pytest.fixture
def ledger() -> Ledger:
    MemoryStore("memory://attempts").clear()
    return open_ledger("memory://attempts/out")


def died(ledger: Ledger, photo: str | None = None, shard: int = 0, **facts: object) -> None:
    """A try whose worker was killed."""
    lease = ShardLease(ledger, "b1", shard, lease_s=60)
    lease.beat()
    (attempt,) = [a for a in attempts_at(ledger, "b1", shard) if is_live(a)]
    gone = {"photo": photo, "seen_at": (clock.now() - timedelta(seconds=61)).isoformat(), **facts}
    rewrite(ledger, attempt.model_copy(update=gone))


def rewrite(ledger: Ledger, attempt: Attempt) -> None:
    ledger.put_json(ledger.key("b1", "attempts", f"{attempt.shard:05}", f"{attempt.id}.json"), attempt)


def test_a_try_is_there_while_it_runs_and_gone_when_it_ended(ledger: Ledger) -> None:
    lease = ShardLease(ledger, "b1", 3, lease_s=60)
    with renewed(lease, interval_s=0, on_beat=lambda lease: lease.beat()):
        (attempt,) = attempts_at(ledger, "b1")
        assert attempt.shard == 3 and is_live(attempt)
        assert attempts_at(ledger, "b1", 4) == []
        assert crash_counts([attempt]).together == 0
    assert attempts_at(ledger, "b1", 3) == []


def test_giving_back_takes_this_try_alone(ledger: Ledger) -> None:
    """Earlier deaths stay counted, or each restart of a fleet would forgive a photo that kills."""
    died(ledger)
    died(ledger, missed=True)
    running = ShardLease(ledger, "b1", 0, lease_s=60)
    running.beat()
    release_leases(ledger, "b1", 0)
    assert crash_counts(attempts_at(ledger, "b1", 0)).together == 2
    assert not [a for a in attempts_at(ledger, "b1", 0) if is_live(a)]


def test_a_try_that_fails_is_no_death(ledger: Ledger) -> None:
    lease = ShardLease(ledger, "b1", 0, lease_s=60)
    with pytest.raises(ZeroDivisionError), renewed(lease, interval_s=0, on_beat=lambda lease: lease.beat()):
        raise ZeroDivisionError
    assert attempts_at(ledger, "b1", 0) == []


def test_a_thread_renews_it_and_survives_a_store_that_is_down(ledger: Ledger) -> None:
    beats: list[float] = []

    def renew(lease: ShardLease) -> None:
        beats.append(time.monotonic())
        if len(beats) == 2:
            raise StoreUnavailable("503")
        lease.beat(Totals(photos=len(beats)))

    lease = ShardLease(ledger, "b1", 0, lease_s=0.6)  # and so six times in 0.6 s
    with renewed(lease, interval_s=0, on_beat=renew):
        time.sleep(0.8)
        (attempt,) = attempts_at(ledger, "b1", 0)
        assert is_live(attempt) and attempt.done.photos >= 3
    assert len(beats) >= 4


def test_deaths_are_counted_by_the_photo_in_hand(ledger: Ledger) -> None:
    for photo in (None, None, "x.jpg", "y.jpg", "x.jpg"):
        died(ledger, photo)
    died(ledger, "x.jpg", shard=1)
    deaths = crash_counts(attempts_at(ledger, "b1", 0))
    assert (deaths.together, deaths.by_photo) == (2, {"x.jpg": 2, "y.jpg": 1})
    assert (deaths.of("x.jpg"), deaths.of("z.jpg")) == (4, 2)


def test_a_process_of_this_host_that_is_gone_need_not_be_waited_for(ledger: Ledger) -> None:
    """Celery starts a killed child's successor within a second; the lease would last a minute."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    ShardLease(ledger, "b1", 0, lease_s=60).beat()
    (attempt,) = attempts_at(ledger, "b1", 0)
    assert is_live(attempt)
    assert not is_live(attempt.model_copy(update={"pid": child.pid}))
    assert is_live(attempt.model_copy(update={"pid": child.pid, "host": "elsewhere"}))
    assert is_live(attempt.model_copy(update={"pid": 1}))


def test_a_try_that_ran_out_of_time_is_a_death_at_once(ledger: Ledger) -> None:
    lease = ShardLease(ledger, "b1", 0, lease_s=60)
    with renewed(lease, interval_s=0, on_beat=lambda lease: lease.beat()):
        lease.hold("slow.jpg")
        lease.time_out()
    assert crash_counts(attempts_at(ledger, "b1", 0)).by_photo == {"slow.jpg": 1}


def test_what_is_given_back_is_no_death_but_what_died_before_stays_one(ledger: Ledger) -> None:
    died(ledger, "x.jpg", host="elsewhere")
    ShardLease(ledger, "b1", 0, lease_s=60).hold("y.jpg")
    release_leases(ledger, "b1", 0)
    assert crash_counts(attempts_at(ledger, "b1", 0)).by_photo == {"x.jpg": 1}


def test_a_torn_record_is_passed_over(ledger: Ledger) -> None:
    ledger.store.put(ledger.key("b1", "attempts", "00000", "torn.json"), b'{"id": "')
    assert attempts_at(ledger, "b1", 0) == []
