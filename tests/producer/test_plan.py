"""Planning: streamed, sharded by size, and gone on with from the cursor."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from producer.plan import estimated_megapixels, may_be_photo, plan
from tests.workers.test_shard import make_batch
from workers.job import Batch, PhotoRef
from workers.ledger import Ledger, open_ledger
from workers.store import ObjectInfo, Store, open_store

counter = iter(range(1_000_000))


def scene(sizes: dict[str, int], **fields: object) -> tuple[Store, Ledger, Batch]:
    number = next(counter)
    source = open_store(f"memory://plan-in-{number}")
    for key, size in sizes.items():
        source.put(key, b"x" * size)
    ledger = open_ledger(f"memory://plan-out-{number}")
    batch = make_batch(source.url, f"memory://plan-out-{number}", **fields)
    ledger.write_batch(batch)
    return source, ledger, batch


def planned_keys(ledger: Ledger, batch: Batch) -> list[str]:
    return [ref.key for shard in range(batch.shards) for ref in ledger.read_plan(batch.id, shard)]


@given(
    keys=st.sets(st.from_regex(r"[a-d]{1,3}\.(jpg|png|txt)", fullmatch=True), max_size=25),
    photos=st.integers(1, 5),
    stop_after=st.integers(0, 6),
)
def test_each_photo_is_planned_once_whenever_planning_breaks_off(keys: set[str], photos: int, stop_after: int) -> None:
    source, ledger, batch = scene(dict.fromkeys(keys, 10), max_shard_photos=photos)
    first = plan(ledger, batch, source)
    for _, _ in zip(range(stop_after), first, strict=False):
        pass
    first.close()
    for _ in plan(ledger, ledger.read_batch(batch.id), source):
        pass
    after = ledger.read_batch(batch.id)
    wanted = sorted(key for key in keys if not key.endswith(".txt"))
    assert planned_keys(ledger, after) == wanted
    assert (after.planned, after.photos, after.ignored) == (True, len(wanted), len(keys) - len(wanted))


def test_a_plan_written_before_its_batch_is_written_again() -> None:
    source, ledger, batch = scene({"a.jpg": 1, "b.jpg": 1}, max_shard_photos=1)
    ledger.write_plan(batch.id, 0, [PhotoRef(key="left over", etag="", size=1)])
    for _ in plan(ledger, batch, source):
        pass
    assert planned_keys(ledger, ledger.read_batch(batch.id)) == ["a.jpg", "b.jpg"]


def test_shards_close_at_their_megapixels() -> None:
    one_megapixel = 350_000
    source, ledger, batch = scene({f"{i}.jpg": one_megapixel for i in range(6)}, max_shard_megapixels=2.5)
    *_, grown = plan(ledger, batch, source)
    assert [len(ledger.read_plan(batch.id, shard)) for shard in range(grown.shards)] == [2, 2, 2]


def test_an_empty_source_is_planned_with_no_shard() -> None:
    source, ledger, batch = scene({"notes.txt": 1})
    assert [(b.planned, b.shards, b.ignored) for b in plan(ledger, batch, source)] == [(True, 0, 1)]


def test_photos_are_told_by_suffix_or_for_want_of_one() -> None:
    names = {
        "a.JPG": True,
        "b/c.heic": True,
        "upload": True,
        "x.y/upload": True,
        "a.txt": False,
        "a.gif": False,
        "d/": False,
    }
    assert {name: may_be_photo(ObjectInfo(key=name, size=1, etag="")) for name in names} == names


def test_megapixels_are_guessed_by_format() -> None:
    guess = {s: estimated_megapixels(PhotoRef(key=f"a.{s}", etag="", size=350_000)) for s in ("jpg", "png", "heic")}
    assert 0.9 < guess["jpg"] < 1.1
    assert guess["png"] < guess["jpg"] < guess["heic"]
