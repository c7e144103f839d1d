"""The list of batches: quick however many there are, and the ledger's own after any restart."""

from __future__ import annotations

import time
from pathlib import Path

from apf.recipe import load_recipe
from producer.server.index import BatchIndex, Entry, Wanted, in_utc
from producer.server.index_sync import KEPT, WORTH, IndexSync
from workers.core.records import Batch
from workers.ledger.batch_ledger import Ledger
from workers.ledger.open_batches import OPEN
from workers.store import open_store

MANY = 100_000
RECIPE = load_recipe("light")


def entry(number: int) -> Entry:
    created = f"2026-{1 + number % 12:02}-01T00:{number // 60 % 60:02}:{number % 60:02}+00:00"
    return Entry(
        "place", f"{number:06}", f"s3://out/{number % 7}", f"tenant {number % 50}", created, number % 1000 == 0
    )


def test_pages_of_a_hundred_thousand_batches_are_quick() -> None:
    """Each kind of list takes milliseconds, from the first page to the last; pages add up to all there are."""
    index = BatchIndex()
    index.add(map(entry, range(MANY)))
    everything = sorted(map(entry, range(MANY)), key=lambda one: (one.created, one.id), reverse=True)
    behind = (everything[-60].created, everything[-60].id)
    wanted = [Wanted(), Wanted(tenants=("tenant 7",)), Wanted(destination="s3://out/3"), Wanted(is_open=True),
              Wanted(since="2026-06-01", until="2026-07-01"), Wanted(before=behind),
              Wanted(tenants=("tenant 7", "tenant 8"), is_open=False)]  # fmt: skip
    started = time.process_time()
    pages = [index.page(one, 50) for one in wanted]
    assert time.process_time() - started < 1.0
    assert pages[0] == everything[:50] and pages[5] == everything[-59:][:50]
    assert pages[1] == [one for one in everything if one.tenant == "tenant 7"][:50]
    assert {one.destination for one in pages[2]} == {"s3://out/3"} and all(one.is_open for one in pages[3])
    assert {one.created[:7] for one in pages[4]} == {"2026-06"}
    assert [one.id for one in pages[6]] == [
        one.id for one in everything if one.tenant in ("tenant 7", "tenant 8") and not one.is_open
    ][:50]


def batch(ledger: Ledger, batch_id: str, tenant: str = "ann") -> None:
    made = Batch(
        id=batch_id, source="file:///in", destination="file:///out", recipe=RECIPE, tenant=tenant,
        created_at="2026-01-01T00:00:00+00:00",
    )  # fmt: skip
    ledger.write_batch(made)


def test_the_index_follows_the_ledger() -> None:
    """New, ended and forgotten batches of every ledger, also one that is noted as open and not written yet."""
    root = open_store("memory://index")
    one, other = Ledger(root, "one-aa"), Ledger(root, "other-bb")
    batch(one, "20260101-1")
    batch(other, "20260101-2", tenant="bob")
    index = BatchIndex()
    sync = IndexSync(root, index, 1.0, left_out="hidden-cc")
    batch(Ledger(root, "hidden-cc"), "20260101-9")
    sync.look()
    assert {(one.id, one.tenant, one.is_open) for one in index.page(Wanted(), 10)} == {
        ("20260101-1", "ann", False), ("20260101-2", "bob", False),
    }  # fmt: skip
    root.put(f"{OPEN}20260101-3", one.batch_url("20260101-3").encode())
    sync.look()
    assert index.count() == 2, "it is registered, and not there yet"
    batch(one, "20260101-3")
    sync.look()
    assert [found.id for found in index.page(Wanted(is_open=True), 10)] == ["20260101-3"]
    root.delete(f"{OPEN}20260101-3")
    one.forget_batch("20260101-1")
    one.sweep("20260101-1")
    sync._whole_at = 0.0
    sync.look()
    assert {(found.id, found.is_open) for found in index.page(Wanted(), 10)} == {
        ("20260101-2", False), ("20260101-3", False),
    }  # fmt: skip


def test_the_index_is_kept_for_the_next_start(tmp_path: Path) -> None:
    """After a restart all is there at once; a file that is torn is as good as none."""
    root = open_store(tmp_path)
    ledger = Ledger(root, "one-aa")
    for number in range(WORTH):
        batch(ledger, f"20260101-{number}")
    first = BatchIndex()
    IndexSync(root, first, 1.0).look()
    second = BatchIndex()
    IndexSync(root, second, 1.0)._take_kept()
    assert second.count() == first.count() == WORTH
    root.put(KEPT, root.get(KEPT).data[:100])
    third = BatchIndex()
    sync = IndexSync(root, third, 1.0)
    sync._take_kept()
    sync.look()
    assert third.count() == WORTH


def test_moments_sort_as_texts() -> None:
    """An offset moves a moment to UTC; one without is UTC."""
    assert in_utc("2026-01-01T00:30:00+01:00") == "2025-12-31T23:30:00+00:00" < in_utc("2026-01-01")
