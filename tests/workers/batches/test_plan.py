"""Planning: streamed, sharded by size, and gone on with from the cursor."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apf.recipe import load_recipe
from tests.memory_store import MemoryStore
from tests.workers.execution.test_shard_pipeline import make_batch
from tests.workers.ledger.test_batch_ledger import report
from workers.batches.plan import BatchTooLarge, PlannerConflict, note_planning_error, plan
from workers.batches.repair_plan import caught_up, planned_anew
from workers.core.records import Batch, Outcome, PhotoRef
from workers.ledger.batch_ledger import Ledger, open_ledger
from workers.store import ObjectInfo, Store, open_store
from workers.store.media_types import estimated_megapixels, has_photos_suffix, is_taken

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
    first = plan(ledger, batch, source, planner="a")
    for _, _ in zip(range(stop_after), first, strict=False):
        pass
    first.close()
    for _ in plan(ledger, ledger.read_batch(batch.id), source, planner="b"):
        pass
    after = ledger.read_batch(batch.id)
    wanted = sorted(key for key in keys if not key.endswith(".txt"))
    assert planned_keys(ledger, after) == wanted
    assert (after.planned, after.photos, after.ignored) == (True, len(wanted), len(keys) - len(wanted))


def test_a_plan_written_before_its_batch_is_written_again() -> None:
    source, ledger, batch = scene({"a.jpg": 1, "b.jpg": 1}, max_shard_photos=1)
    ledger.write_plan(batch.id, 0, [PhotoRef(key="left over", etag="", size=1)])
    for _ in plan(ledger, batch, source, planner="a"):
        pass
    assert planned_keys(ledger, ledger.read_batch(batch.id)) == ["a.jpg", "b.jpg"]


def test_shards_close_at_their_megapixels() -> None:
    one_megapixel = 350_000
    fast = load_recipe("modules")
    source, ledger, batch = scene({f"{i}.jpg": one_megapixel for i in range(6)}, max_shard_megapixels=2.5, recipe=fast)
    *_, grown = plan(ledger, batch, source, planner="a")
    assert [len(ledger.read_plan(batch.id, shard)) for shard in range(grown.shards)] == [2, 2, 2]


@pytest.mark.parametrize(("steps", "sizes"), [(0, [6]), (40, [1] * 6)])
def test_steps_make_photos_dearer(steps: int, sizes: list[int]) -> None:
    """A shard of a recipe with steps holds fewer photos, so that it ends within the same time."""
    recipe = load_recipe("modules").model_copy(update={"steps": steps, "guides": ("dlib",)})
    names = {f"{i}.jpg": 350_000 for i in range(6)}
    source, ledger, batch = scene(names, max_shard_megapixels=6.5, recipe=recipe)
    *_, grown = plan(ledger, batch, source, planner="a")
    assert [len(ledger.read_plan(batch.id, shard)) for shard in range(grown.shards)] == sizes


def test_a_planner_is_never_silent_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where few of many keys are planned it writes its cursor all the same, so that another goes on from there."""
    monkeypatch.setattr("workers.batches.plan.LONGEST_SILENCE_S", -1.0)
    source, ledger, batch = scene({f"{n}.txt": 1 for n in range(5)} | {"3.jpg": 1, "9.jpg": 1})
    slow = plan(ledger, batch, source, planner="slow")
    for _ in range(4):
        next(slow)
    left = ledger.read_batch(batch.id)
    assert (left.cursor, left.ignored, left.planned) == ("2.txt", 3, False)
    *_, grown = plan(ledger, left, source, planner="quick")
    assert planned_keys(ledger, grown) == ["3.jpg", "9.jpg"]
    assert grown.ignored == 5
    with pytest.raises(PlannerConflict):
        next(slow)


def test_what_keeps_a_batch_from_being_planned_is_told_until_it_is() -> None:
    """Nothing is cut off by a bad minute: another planner goes on, and takes the note away."""
    source, ledger, batch = scene(dict.fromkeys("abc", 10), max_shard_photos=1)
    next(plan(ledger, batch, source, planner="a"))
    note_planning_error(ledger, batch.id, "the bucket is gone")
    left = ledger.read_batch(batch.id)
    assert (left.planned, left.note) == (False, "cannot be planned now, and is tried again: the bucket is gone")
    *_, grown = plan(ledger, left, source, planner="b")
    assert (grown.planned, grown.note) == (True, "")
    assert planned_keys(ledger, grown) == list("abc")
    note_planning_error(ledger, batch.id, "too late")
    assert ledger.read_batch(batch.id) == grown


def test_an_empty_source_is_planned_with_no_shard() -> None:
    source, ledger, batch = scene({"notes.txt": 1})
    assert [(b.planned, b.shards, b.ignored) for b in plan(ledger, batch, source, planner="a")] == [(True, 0, 1)]


def test_photos_are_told_by_suffix_or_for_want_of_one() -> None:
    names = {
        "a.JPG": True,
        "b/c.heic": True,
        "upload": True,
        "x.y/upload": True,
        "a.txt": False,
        "a.gif": False,
        "a.safetensors": False,
        "d/": False,
    }
    infos = {name: ObjectInfo(key=name, size=1, etag="") for name in names}
    assert {name: is_taken(info, private=False) for name, info in infos.items()} == names
    assert [name for name, info in infos.items() if is_taken(info, private=True)] == ["a.safetensors"]


def test_a_private_batch_plans_gradient_files_and_nothing_else() -> None:
    """By their suffix alone: what has none, or a photo's, is ignored, as gradient files are by other batches."""
    sizes = {
        "a.safetensors": 10,
        "b.jpg": 10,
        "c.SAFETENSORS": 10,
        "d": 10,
        "e.safetensors.txt": 10,
        "f.safetensors": 10,
    }
    source, ledger, batch = scene(sizes, private=True, max_shard_photos=2)
    *_, done = plan(ledger, batch, source, planner="a")
    assert planned_keys(ledger, done) == ["a.safetensors", "c.SAFETENSORS", "f.safetensors"]
    assert (done.photos, done.shards, done.ignored, done.private) == (3, 2, 3, True)
    ledger.store.put(ledger.key(done.id, "plan", "00000.jsonl"), b"torn")
    assert [ref.key for ref in planned_anew(ledger, done, 0, source)[0]] == ["a.safetensors", "c.SAFETENSORS"]
    source, ledger, batch = scene(sizes)
    *_, done = plan(ledger, batch, source, planner="a")
    assert planned_keys(ledger, done) == ["b.jpg", "d"]


def test_a_gradient_counts_for_the_time_that_it_takes() -> None:
    """A face's 75 KB take 10 ms where a megapixel takes 330: a shard of 2.5 megapixels holds 83 of them."""
    assert estimated_megapixels(PhotoRef(key="a.safetensors", etag="", size=75_264)) == pytest.approx(0.03)
    source, ledger, batch = scene({f"{n:03}.safetensors": 75_264 for n in range(100)}, private=True,
                                  max_shard_megapixels=2.5)  # fmt: skip
    *_, done = plan(ledger, batch, source, planner="a")
    assert [len(ledger.read_plan(batch.id, shard)) for shard in range(done.shards)] == [83, 17]
    assert has_photos_suffix("x/me.JPG")
    assert not has_photos_suffix("x/me.safetensors")


def test_megapixels_are_guessed_by_format() -> None:
    guess = {s: estimated_megapixels(PhotoRef(key=f"a.{s}", etag="", size=350_000)) for s in ("jpg", "png", "heic")}
    assert 0.9 < guess["jpg"] < 1.1
    assert guess["png"] < guess["jpg"] < guess["heic"]


def test_a_planner_that_lost_the_batch_writes_nothing_more() -> None:
    """It was silent too long, and another took over: the first one's plans must not replace the second one's."""
    source, ledger, batch = scene(dict.fromkeys("abcdef", 10), max_shard_photos=1)
    slow = plan(ledger, batch, source, planner="slow")
    next(slow)
    source.delete("b")
    quick = plan(ledger, ledger.read_batch(batch.id), source, planner="quick")
    next(quick)
    with pytest.raises(PlannerConflict, match="planned by quick now"):
        next(slow)
    for _ in quick:
        pass
    assert planned_keys(ledger, ledger.read_batch(batch.id)) == list("acdef")


@pytest.mark.parametrize("shard", [0, 1, 2])
def test_a_torn_plan_is_made_anew_from_its_neighbours(shard: int) -> None:
    keys = ["a.jpg", "b.txt", "c.jpg", "d.jpg", "e.jpg", "f.txt", "g.jpg"]
    source, ledger, batch = scene(dict.fromkeys(keys, 10), max_shard_photos=2)
    *_, batch = plan(ledger, batch, source, planner="a")
    whole = ledger.read_plan(batch.id, shard)
    ledger.store.put(ledger.key(batch.id, "plan", f"{shard:05}.jsonl"), b'{"kind": "pl')
    assert planned_anew(ledger, batch, shard, source) == {shard: whole}


def test_a_torn_last_plan_ends_where_planning_had_come() -> None:
    """Objects behind the cursor belong to shards to come."""
    source, ledger, batch = scene(dict.fromkeys(["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"], 10), max_shard_photos=2)
    batch = next(plan(ledger, batch, source, planner="a"))
    ledger.store.put(ledger.key(batch.id, "plan", "00000.jsonl"), b"")
    assert [ref.key for ref in planned_anew(ledger, batch, 0, source)[0]] == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("torn", [(0, 1), (1, 2), (0, 1, 2), (2, 3), (0, 1, 2, 3)])
def test_torn_plans_side_by_side_are_cut_as_they_were(torn: tuple[int, ...]) -> None:
    source, ledger, batch = scene(dict.fromkeys("abcdefg", 10), max_shard_photos=2)
    *_, batch = plan(ledger, batch, source, planner="a")
    whole = {shard: ledger.read_plan(batch.id, shard) for shard in torn}
    for shard in torn:
        ledger.store.put(ledger.key(batch.id, "plan", f"{shard:05}.jsonl"), b"")
    for shard in torn:
        assert planned_anew(ledger, batch, shard, source) == whole


def test_what_came_to_the_source_meanwhile_goes_to_the_last_torn_plan() -> None:
    source, ledger, batch = scene(dict.fromkeys("abcd", 10), max_shard_photos=2)
    *_, batch = plan(ledger, batch, source, planner="a")
    for shard in (0, 1):
        ledger.store.put(ledger.key(batch.id, "plan", f"{shard:05}.jsonl"), b"")
    source.put("aa", b"new")
    source.delete("b")
    source.delete("c")
    anew = planned_anew(ledger, batch, 0, source)
    assert [[ref.key for ref in anew[shard]] for shard in (0, 1)] == [["a", "aa"], ["d"]]
    source.delete("d")
    assert planned_anew(ledger, batch, 1, source)[1] == []


def test_a_shard_that_is_done_bounds_torn_plans_by_its_report() -> None:
    source, ledger, batch = scene(dict.fromkeys("abcd", 10), max_shard_photos=2)
    *_, batch = plan(ledger, batch, source, planner="a")
    ledger.write_report(batch.id, report(0, {"a": Outcome.protected, "b": Outcome.failed}))
    for shard in (0, 1):
        ledger.store.put(ledger.key(batch.id, "plan", f"{shard:05}.jsonl"), b"")
    assert {shard: [ref.key for ref in refs] for shard, refs in planned_anew(ledger, batch, 1, source).items()} == {
        1: ["c", "d"]
    }


def test_a_source_over_the_limit_is_refused_and_what_is_planned_stays() -> None:
    source, ledger, batch = scene(dict.fromkeys("abcde", 10), max_shard_photos=2)
    planning = plan(ledger, batch, source, planner="a", max_photos=4)
    assert next(planning).photos == 2
    with pytest.raises(BatchTooLarge, match="more than 4 photos"):
        list(planning)
    ended = ledger.read_batch(batch.id)
    assert planned_keys(ledger, ended) == ["a", "b", "c", "d"]
    assert ended.planned, "or it would never be done"
    assert "more than 4 photos" in ended.note
    exact, ledger, batch = scene(dict.fromkeys("abcd", 10))
    *_, done = plan(ledger, batch, exact, planner="a", max_photos=4)
    assert (done.planned, done.photos) == (True, 4)


def test_a_shard_that_is_done_is_not_planned_anew() -> None:
    """By a planner that took over with an older record of the batch."""
    source, ledger, batch = scene(dict.fromkeys("abcd", 10), max_shard_photos=2)
    for _ in plan(ledger, batch, source, planner="a"):
        pass
    ledger.write_report(batch.id, report(0, {"a": Outcome.protected, "b": Outcome.protected}))
    source.put("aa", b"new")
    with pytest.raises(PlannerConflict, match="done already"):
        list(plan(ledger, batch, source, planner="b"))
    assert [ref.key for ref in ledger.read_plan(batch.id, 0)] == ["a", "b"]


def test_a_fraction_and_the_rest_are_all_photos_and_larger_fractions_hold_smaller_ones() -> None:
    """Each photo is in one of the two, the share is about as asked, and another schedule chooses others."""
    keys = [f"{number}.jpg" for number in range(400)]
    source, _, _ = scene(dict.fromkeys(keys, 1))

    def chosen(**fields: object) -> set[str]:
        ledger = open_ledger(f"memory://plan-part-{next(counter)}")
        batch = make_batch(source.url, "memory://x", **{"schedule": "s", **fields})
        ledger.write_batch(batch)
        *_, done = plan(ledger, batch, source, planner="a")
        return set(planned_keys(ledger, done))

    small, large = chosen(fraction=0.1), chosen(fraction=0.4)
    assert small < large
    assert (20 < len(small) < 65, 120 < len(large) < 200) == (True, True)
    assert chosen(fraction=0.4, part="rest") == set(keys) - large
    assert chosen(fraction=0.1, schedule="other") != small


def test_of_what_is_new_alone_torn_plans_are_made_anew_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos from before the moment are in no plan, neither at first nor after a plan was torn."""
    moment = datetime(2026, 5, 1, 12, tzinfo=UTC)
    monkeypatch.setattr(MemoryStore, "clock", lambda _: moment - timedelta(hours=1))
    source, ledger, batch = scene(dict.fromkeys(["a", "c", "e"], 1), changed_since=moment.isoformat())
    monkeypatch.setattr(MemoryStore, "clock", lambda _: moment)
    for key in ("b", "c", "d"):
        source.put(key, b"new")
    *_, batch = plan(ledger, batch, source, planner="a")
    assert planned_keys(ledger, batch) == ["b", "c", "d"]
    ledger.store.put(ledger.key(batch.id, "plan", "00000.jsonl"), b"")
    assert [ref.key for ref in planned_anew(ledger, batch, 0, source)[0]] == ["b", "c", "d"]


def test_a_record_that_lags_behind_its_plans_catches_up() -> None:
    """Written anew, as empty as at first, by somebody who had seen none; what is planned stays planned."""
    source, ledger, empty = scene(dict.fromkeys("abcdefg", 10), max_shard_photos=2)
    planning = plan(ledger, empty, source, planner="a")
    next(planning)
    after = next(planning)
    ledger.write_report(empty.id, report(1, {"c": Outcome.protected, "d": Outcome.protected}))
    ledger.write_batch(empty)
    found = caught_up(ledger, ledger.read_batch(empty.id))
    assert (found.shards, found.photos, found.cursor) == (after.shards, after.photos, "d")
    *_, done = plan(ledger, found, source, planner="b")
    assert planned_keys(ledger, done) == list("abcdefg")
    assert caught_up(ledger, done) == done


def test_shards_are_sent_soon_at_first_and_then_many_at_once() -> None:
    """The first message does not wait for a long stretch, and a large batch is not written after each shard."""
    source, ledger, batch = scene({f"{n:03}": 1 for n in range(150)}, max_shard_photos=1)
    grown = [each.shards for each in plan(ledger, batch, source, planner="a")]
    assert grown == [1, 2, 4, 8, 16, 32, 64, 96, 128, 150]


def test_a_plan_that_is_left_behind_a_gap_is_not_counted() -> None:
    """A planner that dies while it writes a stretch leaves some of its plans, and photos lie before them."""
    source, ledger, batch = scene(dict.fromkeys("abcdef", 10), max_shard_photos=2)
    *_, whole = plan(ledger, batch, source, planner="a")
    counted = {"planned": False, "shards": 1, "photos": 1, "cursor": "a"}
    cut_short = whole.model_copy(update=counted)  # its first shard was closed early, after a silence
    ledger.write_plan(batch.id, 0, [PhotoRef(key="a", etag="", size=10)], after="")
    ledger.write_batch(cut_short)
    assert ledger.listed_after(batch.id, 1) == "b"
    assert caught_up(ledger, cut_short) == cut_short
    *_, done = plan(ledger, caught_up(ledger, cut_short), source, planner="b")
    assert planned_keys(ledger, done) == list("abcdef")


def test_plans_of_an_older_version_are_counted_as_before() -> None:
    """They do not say what lies before them."""
    _, ledger, batch = scene(dict.fromkeys("abcd", 10), max_shard_photos=2)
    for shard, keys in enumerate(("ab", "cd")):
        ledger.write_plan(batch.id, shard, [PhotoRef(key=key, etag="", size=10) for key in keys])
    assert caught_up(ledger, batch).cursor == "d"
