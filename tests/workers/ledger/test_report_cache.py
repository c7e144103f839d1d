"""The digest: a large batch is looked at without reading each report, and nothing in it outlives its report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest

from tests.memory_store import MemoryStore
from tests.workers.ledger.test_batch_ledger import batch, report
from workers.core.records import Batch, Outcome
from workers.errors import Forbidden
from workers.ledger.batch_ledger import Ledger, open_ledger
from workers.ledger.report_cache import FEW_FAILURES, WORTH, open_shards
from workers.status.batch_status import BatchMonitor

SHARDS = WORTH + 44


@pytest.fixture
def done() -> tuple[Ledger, Batch]:
    """A batch whose shards are all reported, of two photos each; one of them failed in the first shard."""
    MemoryStore("memory://digest").clear()
    ledger = open_ledger("memory://digest/out")
    for shard in range(SHARDS):
        second = Outcome.no_face if shard else Outcome.failed
        ledger.write_report("b1", report(shard, {f"{shard:03}-a": Outcome.protected, f"{shard:03}-b": second}))
    return ledger, batch(ledger, 2 * SHARDS, SHARDS, batch_id="b1")


@contextmanager
def reports_read() -> Iterator[list[int]]:
    """The shards whose reports are read while the block runs."""
    read: list[int] = []
    real = Ledger.read_short

    def read_short(self: Ledger, batch_id: str, shard: int) -> object:
        read.append(shard)
        return real(self, batch_id, shard)

    with mock.patch.object(Ledger, "read_short", read_short):
        yield read


def test_a_second_look_reads_no_report_again(done: tuple[Ledger, Batch]) -> None:
    ledger, known = done
    first = BatchMonitor(ledger, known.id).poll()
    assert (first.protected, first.no_face, first.failed, first.done) == (SHARDS, SHARDS - 1, 1, True)
    with reports_read() as read:
        assert BatchMonitor(ledger, known.id).poll() == first
        assert open_shards(ledger, known) == set()
    assert read == []


def test_a_report_that_is_torn_afterwards_counts_no_more(done: tuple[Ledger, Batch]) -> None:
    """Its ETag is another one: the shard runs again, though the digest says that it was done."""
    ledger, known = done
    BatchMonitor(ledger, known.id).poll()
    key = ledger.key(known.id, "reports", "00007.jsonl")
    ledger.store.put(key, ledger.store.get(key).data[:-20])
    ledger.store.delete(ledger.key(known.id, "reports", "00009.jsonl"))
    summary = BatchMonitor(ledger, known.id).poll()
    assert (summary.reported_shards, summary.pending) == (SHARDS - 2, 4)
    ledger.write_report(known.id, report(9, {"009-a": Outcome.protected, "009-b": Outcome.no_face}))
    with reports_read() as read:
        assert open_shards(ledger, known) == {7}
    assert 7 in read
    assert len(read) <= 2


def test_a_newer_digest_is_left_to_who_wrote_it(done: tuple[Ledger, Batch]) -> None:
    """An older installation reads the reports themselves, and does not replace what it cannot read."""
    ledger, known = done
    newer = b'{"kind":"digest","version":2,"shard":0,"count":0}\n'
    ledger.store.put(ledger.key(known.id, "digest.jsonl"), newer)
    assert BatchMonitor(ledger, known.id).poll().done
    assert ledger.store.get(ledger.key(known.id, "digest.jsonl")).data == newer


@pytest.mark.parametrize("data", [b"", b"{}"])
def test_a_torn_digest_is_none(done: tuple[Ledger, Batch], data: bytes) -> None:
    ledger, known = done
    ledger.store.put(ledger.key(known.id, "digest.jsonl"), data)
    assert BatchMonitor(ledger, known.id).poll().done
    with reports_read() as read:
        assert BatchMonitor(ledger, known.id).poll().done
    assert read == [], "it was written anew"


def test_who_may_only_read_can_look_all_the_same(done: tuple[Ledger, Batch], monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, known = done
    monkeypatch.setattr(MemoryStore, "put", mock.Mock(side_effect=Forbidden("read-only")))
    assert BatchMonitor(ledger, known.id).poll().done


def test_a_shard_with_many_failures_is_read_each_time(done: tuple[Ledger, Batch]) -> None:
    """The digest of a batch of which all fails is no larger than of another, and each failure is told."""
    ledger, known = done
    many = {f"000-{number:02}": Outcome.failed for number in range(FEW_FAILURES + 1)}
    ledger.write_report(known.id, report(0, many))
    first = BatchMonitor(ledger, known.id).poll()
    with reports_read() as read:
        assert BatchMonitor(ledger, known.id).poll() == first
    assert read == [0]
    assert [failure.key for failure in first.failures] == sorted(many)


def test_a_batch_that_is_followed_is_noted_as_it_goes(done: tuple[Ledger, Batch]) -> None:
    """Whoever looks later need not read what somebody has read already."""
    ledger, known = done
    reports = {shard: ledger.read_report(known.id, shard) for shard in range(SHARDS)}
    ledger.sweep(known.id)
    ledger.write_batch(known)
    watch = BatchMonitor(ledger, known.id)
    for shard, one in reports.items():
        assert one is not None
        ledger.write_report(known.id, one)
        if shard % 30 == 0:
            watch.poll()
    with reports_read() as read:
        assert BatchMonitor(ledger, known.id).poll().done
    assert len(read) < 100
