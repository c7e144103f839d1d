"""Schedules fire when they are due: once, whoever looks, whatever was missed, and each by itself."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from apf.recipe import load_recipe
from tests.memory_store import MemoryStore
from tests.workers.fakes import FakeBroker
from tests.workers.schedules.world import START, World, world
from workers.errors import StoreUnavailable
from workers.ledger.batch_ledger import Ledger
from workers.ledger.report_cache import open_shards
from workers.schedules import decide, fire, lease, outcome
from workers.schedules.fire import run_due
from workers.schedules.lease import ScheduleLease, lease_at
from workers.schedules.models import Schedule
from workers.store import Store

__all__ = ["world"]


def test_a_schedule_runs_at_once_and_then_every_so_often(world: World) -> None:
    """Every run looks at all photos where no change is waited for; nothing runs in between."""
    world.photos("a", "b")
    world.add(every=3600)
    assert world.run() == ["a", "b"]
    assert world.tick(0.9) == []
    assert world.run(0.1) == ["a", "b"]
    assert [r.fire_time for r in [world.last()]] == [(START + timedelta(hours=1)).isoformat()]
    assert len(world.ledger.batches()) == 2


def test_a_cron_line_waits_for_its_moment(world: World) -> None:
    world.photos("a")
    world.add(cron="0 3 * * *")
    assert world.tick(14.9) == []
    assert len(world.tick(0.2)) == 1
    assert world.last().fire_time == "2026-05-02T03:00:00+00:00"
    assert world.last().parts[0].batch.startswith("20260502-030000-000000-")


def test_what_was_missed_is_caught_up_once(world: World) -> None:
    """Nobody looked for ten days: one run, for the last of the ten moments, and none before the next one."""
    world.photos("a")
    world.add(cron="0 3 * * *")
    assert len(world.tick(24 * 10)) == 1
    assert world.last().fire_time == "2026-05-11T03:00:00+00:00"
    world.work()
    assert world.tick(0.1) == []
    assert world.tick(14.9) != []


def test_a_paused_schedule_does_not_fire_and_catches_up_once(world: World) -> None:
    world.photos("a")
    world.add(every=3600, paused=True)
    assert world.tick(5.5) == []
    world.change(paused=False)
    assert len(world.tick()) == 1
    world.work()
    assert world.tick() == []
    assert len(world.tick(0.5)) == 1


def test_a_run_that_still_goes_on_is_not_doubled(world: World) -> None:
    """The moment passes, and the state says so; the next one after the run's end fires again."""
    world.photos("a")
    world.add(every=3600)
    assert len(world.tick()) == 1
    assert world.tick(1) == []
    assert world.state().skipped == (START + timedelta(hours=1)).isoformat()
    world.work()
    assert world.tick(0.5) == []
    assert len(world.tick(0.5)) == 1


def test_a_cancelled_run_is_over(world: World) -> None:
    """A run that was cancelled does not hold up the next one for ever."""
    world.photos("a")
    world.add(every=3600)
    world.tick()
    world.ledger.stop(world.last().parts[0].batch, "cancelled")
    assert len(world.tick(1)) == 1


def test_two_who_look_at_the_same_moment_make_one_batch(world: World) -> None:
    """Real threads, started together, many times over: one batch, and each photo planned once."""
    keys = [f"{number:02}" for number in range(10)]
    world.photos(*keys)
    world.add(every=3600)
    both = Barrier(2)

    def beat() -> None:
        both.wait()
        run_due(world.settings, world.broker, now=lambda: world.now)

    with ThreadPoolExecutor(2) as pool:
        for hour in range(20):
            for done in [pool.submit(beat), pool.submit(beat)]:
                done.result()
            (batch,) = world.run_batches()
            assert [ref.key for ref in world.plan(batch)] == [f"{key}.jpg" for key in keys]
            assert len(world.ledger.batches()) == hour + 1
            world.work()
            world.now += timedelta(hours=1)


@pytest.mark.parametrize("strike", ["turn", "create"])
def test_two_without_turns_make_one_batch_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch, strike: str
) -> None:
    """The second one saw nothing of the first, and goes on only once the first one's batch is half done.

    It writes the batch anew, as empty as it was, and its planning finds the plans that are there.
    """
    world.photos(*"abcdefgh")
    world.add(every=3600)
    first_is_done = False

    def first() -> None:
        nonlocal first_is_done
        if not first_is_done:
            first_is_done = True
            world.tick()
            left = world.sent[1:]
            del world.sent[1:]
            world.work()
            world.sent[:] = left

    checks = iter(range(100))
    monkeypatch.setattr(ScheduleLease, "holder", lambda self: None)
    if strike == "turn":  # before it writes what it has found due
        monkeypatch.setattr(ScheduleLease, "check", lambda self: first() if next(checks) == 1 else None)
    else:
        has, write = Ledger.has_batch, Ledger.write_batch
        monkeypatch.setattr(Ledger, "has_batch", lambda *a: has(*a) if first_is_done else False)

        def stalled(ledger: Ledger, batch: object) -> None:
            first()
            write(ledger, batch)  # type: ignore[arg-type]

        monkeypatch.setattr(Ledger, "write_batch", stalled)
        monkeypatch.setattr(ScheduleLease, "check", lambda self: None)
    world.tick()
    assert first_is_done
    monkeypatch.undo()
    monkeypatch.setattr(MemoryStore, "clock", lambda _: world.now)
    world.work()
    (batch,) = world.run_batches()
    assert len(world.ledger.batches()) == 1
    assert [ref.key for ref in world.plan(batch)] == [f"{key}.jpg" for key in "abcdefgh"]
    assert (batch.planned, batch.photos) == (True, 8)
    assert open_shards(world.ledger, batch) == set()


@pytest.mark.parametrize("after", ["write_state", "register", "write_batch"])
def test_who_dies_while_firing_is_stood_in_for(world: World, monkeypatch: pytest.MonkeyPatch, after: str) -> None:
    """Killed right after each of its writes: the next look makes what is missing, for the same moment."""
    world.photos("a", "b")
    world.add(every=3600)

    class Killed(BaseException):
        pass

    def dying(real: Callable[..., None]) -> Callable[..., None]:
        def write(*args: object, **kwargs: object) -> None:
            real(*args, **kwargs)
            raise Killed

        return write

    with monkeypatch.context() as patch:
        if after == "register":
            import workers.batches.create  # noqa: PLC0415

            patch.setattr(workers.batches.create, "register", dying(workers.batches.create.register))
        else:
            kind = fire.ScheduleRepository if after == "write_state" else Ledger
            patch.setattr(kind, after, dying(getattr(kind, after)))
        with pytest.raises(Killed):
            world.tick()
    world.now += timedelta(minutes=10)
    assert world.run() == ["a", "b"]
    assert world.last().fire_time == START.isoformat()
    assert len(world.ledger.batches()) == 1


def test_only_one_has_the_turn(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given back at the end, and runs out where its holder has died."""
    world.add()
    with lease_at(world.repository, "nightly") as mine:
        assert mine is not None
        with lease_at(world.repository, "nightly") as other:
            assert other is None
        assert world.tick() == []
    with lease_at(world.repository, "nightly") as mine:
        assert mine is not None
        monkeypatch.setattr(lease, "LEASE_S", -1.0)
        mine.write()
        with lease_at(world.repository, "nightly") as other:
            assert other is not None
            with pytest.raises(lease.ScheduleLeaseLost, match="nightly is evaluated by another process"):
                mine.check()


def test_one_bad_schedule_holds_up_no_other(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A source that is gone, a recipe that is no more, a torn record: told, kept, and tried again."""
    world.photos("a")
    world.add("a-gone", every=3600)
    gone = world.repository.read("a-gone").model_copy(update={"source": "memory://elsewhere"})
    world.repository.write(gone)
    world.add("b-malformed")
    world.change("b-malformed", recipe={"name": "x", "epsilon_levels": 99})
    world.repository.store.put(".apf/schedules/c-torn/schedule.json", b"{")
    world.add("nightly")
    with caplog.at_level(logging.WARNING):
        assert [one.schedule.name for one in world.tick()] == ["nightly"]
    problems = {name: world.repository.problem(name) for name in world.repository.names()}
    assert {name: problem.error.split(":")[0] for name, problem in problems.items() if problem} == {
        "a-gone": "source memory",
        "b-malformed": "recipe 'x' does not validate",
        "c-torn": "schedule c-torn does not validate",
    }
    assert caplog.text.count("is left for the next time") == 3
    world.change("b-malformed", recipe={"name": "light"})
    assert [one.schedule.name for one in world.tick(0.1)] == ["b-malformed"]
    assert world.repository.problem("b-malformed") is None


def test_an_error_that_nobody_thought_of_holds_up_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is noted with its kind, the others are looked at, and what they fired is planned."""
    world.photos("a")
    world.add("a-odd")
    world.add("nightly")
    real = fire.settled

    def settled(schedule: Schedule, *args: object) -> object:
        if schedule.name == "a-odd":
            raise KeyError("surprise")
        return real(schedule, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(fire, "settled", settled)
    assert [one.schedule.name for one in world.tick()] == ["nightly"]
    assert len(world.sent) == 1
    problem = world.repository.problem("a-odd")
    assert problem is not None
    assert problem.error == "KeyError: 'surprise'"


def test_a_time_limit_is_noted_and_the_next_look_begins_with_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was fired before is planned, nothing is looked at after; the slow one comes last the next time."""
    world.photos("a")
    for name in ("a", "b-slow", "c"):
        world.add(name)
    real = fire.settled

    def settled(schedule: Schedule, *args: object) -> object:
        if schedule.name == "b-slow":
            raise SoftTimeLimitExceeded
        return real(schedule, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(fire, "settled", settled)
    assert [one.schedule.name for one in world.tick()] == ["a"]
    assert len(world.sent) == 1
    problem = world.repository.problem("b-slow")
    assert problem is not None
    assert "within APF_SHARD_SOFT_LIMIT_S" in problem.error
    assert [one.schedule.name for one in world.tick()] == ["c"]
    monkeypatch.undo()
    monkeypatch.setattr(MemoryStore, "clock", lambda _: world.now)
    assert [one.schedule.name for one in world.tick()] == ["b-slow"]


def test_an_error_is_forgotten_once_its_cause_is_gone(world: World) -> None:
    """Its planning failed, which a clock's next look finds mended, also where nothing is due."""
    world.photos("a")
    world.add()

    def down(batch_url: str) -> None:
        raise StoreUnavailable("no planning today")

    assert len(run_due(world.settings, FakeBroker(plan=down), now=lambda: world.now)) == 1
    assert world.repository.problem("nightly") is not None
    assert world.tick(0.1) == []
    assert world.repository.problem("nightly") is None


def test_a_run_s_end_is_found_within_the_turn(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are read once each, and the turn is kept between them, however many there are."""
    world.photos(*[f"{number:03}" for number in range(600)])
    world.add(every=3600)
    world.run()
    read, kept = list[int](), list[int]()
    real = Ledger.read_report

    def read_report(ledger: Ledger, batch_id: str, shard: int) -> object:
        read.append(shard)
        return real(ledger, batch_id, shard)

    monkeypatch.setattr(Ledger, "read_report", read_report)
    monkeypatch.setattr(ScheduleLease, "keep", lambda self: kept.append(len(read)))
    assert world.tick(0.1) == []
    assert world.last().totals is not None
    assert sorted(read) == list(range(200))
    assert len(set(kept)) > 2


def test_an_older_version_leaves_a_newer_one_s_state_alone(world: World) -> None:
    """It would take it for none, and run everything again; a torn one is as good as none."""
    world.photos("a")
    world.add(on_change=("new",))
    world.run()
    world.repository.store.put(".apf/schedules/nightly/last.json", b'{"considered": "", "from_the_future": 1}')
    assert world.tick(2) == []
    problem = world.repository.problem("nightly")
    assert problem is not None
    assert "upgrade this installation" in problem.error
    world.repository.store.put(".apf/schedules/nightly/last.json", b'{"considered": "20')
    assert world.run() == ["a"]


def test_a_record_that_somebody_moved_is_not_believed(world: World) -> None:
    """A record names a destination whose schedules lie elsewhere: whoever may write here must not write there."""
    world.add()
    world.change(destination="memory://in/x", source="memory://out")
    assert world.tick() == []
    problem = world.repository.problem("nightly")
    assert problem is not None
    assert "belongs into memory://in" in problem.error


def refuse_output(patch: pytest.MonkeyPatch, *names: str) -> None:
    """The destination is down for these photos alone."""
    put = MemoryStore.put

    def down(store: Store, key: str, *args: object, **kwargs: object) -> object:
        if key.removesuffix(".jpg") in names:
            raise StoreUnavailable("down")
        return put(store, key, *args, **kwargs)  # type: ignore[arg-type]

    patch.setattr(MemoryStore, "put", down)


class TestOnChange:
    def test_new_photos_alone_are_planned(self, world: World) -> None:
        """The first run takes all; later ones what came since, and a look that finds nothing makes no batch."""
        world.photos("a", "b")
        world.add(on_change=("new",))
        assert world.run() == ["a", "b"]
        assert world.tick(3) == []
        world.photos("c")
        assert world.run(2) == ["c"]
        assert world.last().reason == "new photos"
        world.now += timedelta(hours=3)
        world.photos("a")  # another version
        assert world.run(1) == ["a"]
        assert world.tick(1) == []

    def test_a_private_schedule_waits_for_gradient_files_alone(self, world: World) -> None:
        """A photo beside them is nothing new, and its batches are private; other schedules are not theirs."""
        world.photos("a")
        world.source.put("b.safetensors", b"face b")
        world.add(on_change=("new",), private=True)
        assert world.run() == ["b.safetensors"]
        assert [batch.private for batch in world.run_batches()] == [True]
        world.now += timedelta(hours=3)
        world.photos("c")
        assert world.tick() == []
        world.source.put("d.safetensors", b"face d")
        assert world.run(1) == ["d.safetensors"]
        world.add("open", on_change=("new",))
        world.tick()
        (batch,) = world.run_batches("open")
        assert [ref.key for ref in world.plan(batch)] == ["a.jpg", "c.jpg"]

    def test_a_library_that_is_up_to_date_costs_one_listing(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No HEAD of any photo: the source's own times say that nothing is new."""
        world.photos(*"abcdef")
        world.now += timedelta(hours=2)
        world.add(on_change=("new", "recipe"))
        world.run()
        heads: list[str] = []
        head = MemoryStore.head

        def counted(store: MemoryStore, key: str) -> object:
            heads.append(key)
            return head(store, key)

        monkeypatch.setattr(MemoryStore, "head", counted)
        assert world.tick(5) == []
        assert [key for key in heads if not key.startswith(".apf/")] == []

    def test_photos_that_may_have_been_seen_are_asked_after(self, world: World) -> None:
        """A photo that came minutes before the run is not new; one that appears later under such a time is."""
        world.photos("a", "b")
        world.now += timedelta(minutes=5)
        world.add(every=60, on_change=("new",))
        world.run()
        assert world.tick(0.1) == []
        later, world.now = world.now, START - timedelta(minutes=10)
        world.photos("late")  # an upload in parts bears the time at which it began
        world.now = later
        assert "late" in world.run(0.1)
        assert world.tick(0.1) == []

    def test_many_photos_that_may_have_been_seen_are_asked_after_at_once_and_not_for_ever(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Several HEADs are under way at a time; of more photos than the cap, a run is to find out."""
        world.photos(*[f"{number:03}" for number in range(100)])
        world.now += timedelta(minutes=5)
        world.add(every=60, on_change=("new",))
        world.run()
        together, asked = Barrier(8, timeout=20), list[str]()
        head = MemoryStore.head

        def slow(store: MemoryStore, key: str) -> object:
            if not key.startswith(".apf/"):
                asked.append(key)
                if len(asked) <= 64:
                    together.wait()  # breaks where they come one by one
            return head(store, key)

        monkeypatch.setattr(MemoryStore, "head", slow)
        assert world.tick(0.1) == []
        assert world.repository.problem("nightly") is None
        assert len(asked) == 100
        monkeypatch.setattr("workers.schedules.diff.MAX_HEADS", 80)
        asked[:] = ["enough"] * 64
        assert len(world.tick(0.1)) == 1
        assert len(asked) == 64 + 64

    def test_photos_without_an_output_are_no_news(self, world: World) -> None:
        """Failed, and left out for want of a face: they are run once, and again only in another version."""
        world.photos("a")
        world.photos("corrupt", text="corrupt")
        world.photos("empty", text="empty")
        world.add(every=60, on_change=("new",), no_face="skip")
        assert world.run() == ["a", "corrupt", "empty"]
        assert world.tick(0.1) == []
        world.photos("corrupt")
        assert "corrupt" in world.run(0.1)
        assert world.tick(0.1) == []

    def test_other_weights_run_everything_again(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """A worker with new weights gives the recipe another id."""
        world.photos("a", "b")
        world.add(on_change=("recipe",))
        assert world.run() == ["a", "b"]
        world.photos("c")
        assert world.tick(2) == []
        monkeypatch.setattr("apf.recipe.weights_digest", lambda: "0" * 64)
        assert world.run(1) == ["a", "b", "c"]
        assert world.last().reason == "recipe or weights changed"
        assert world.tick(1) == []

    def test_other_weights_are_no_matter_to_who_waits_for_photos_alone(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """New photos get them, the others stay as they are; another recipe is what the operator asks for."""
        world.photos("a", "b")
        world.add(on_change=("new",))
        world.run()
        monkeypatch.setattr("apf.recipe.weights_digest", lambda: "0" * 64)
        assert world.tick(2) == []
        world.photos("c")
        assert world.run(2) == ["c"]
        world.change(recipe={"name": "strong"}, revision=2)
        assert world.run(1) == ["a", "b", "c"]
        assert world.last().reason == "the schedule was changed"

    def test_old_and_new_workers_side_by_side_do_not_undo_each_other(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A worker with the former weights leaves the schedule alone, until somebody goes back to them on purpose."""
        world.photos("a")
        world.add(on_change=("recipe", "new"))
        world.run()
        with monkeypatch.context() as upgraded:
            upgraded.setattr("apf.recipe.weights_digest", lambda: "0" * 64)
            assert world.run(2) == ["a"]
        assert world.tick(1) == []
        problem = world.repository.problem("nightly")
        assert problem is not None
        assert "upgrade it, or go back to them from there with apf schedule run-now nightly" in problem.error
        with monkeypatch.context() as upgraded:
            upgraded.setattr("apf.recipe.weights_digest", lambda: "0" * 64)
            assert world.tick() == []
        assert world.repository.problem("nightly") is None
        world.change(asked_at=world.now.isoformat(), asked_all=True)
        assert world.run() == ["a"]
        assert set(world.recipes().values()) == {load_recipe("light").id}
        assert world.tick(2) == []

    def test_a_run_that_broke_off_is_made_again(self, world: World) -> None:
        world.photos("a", "b")
        world.add(on_change=("new",))
        world.tick()
        world.ledger.stop(world.last().parts[0].batch, "cancelled")
        world.sent.clear()
        assert world.run(1) == ["a", "b"]
        assert world.last().reason == "the last run broke off"
        assert world.tick(1) == []

    def test_what_failed_for_a_passing_reason_is_tried_again(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.photos("a", "b")
        world.add(on_change=("new",))
        world.tick()
        with monkeypatch.context() as patch:
            refuse_output(patch, "b")
            world.work()
        assert set(world.recipes()) == {"a"}
        assert "b" in world.run(1)
        assert set(world.recipes()) == {"a", "b"}
        assert world.tick(2) == []

    def test_photos_that_keep_failing_are_planned_alone_and_not_for_ever(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The rest is covered; after some runs they wait for another reason, and go along with it."""
        monkeypatch.setattr(decide, "MAX_TRIES", 3)
        world.photos("a", "b", "c")
        world.now += timedelta(hours=2)
        world.add(on_change=("new", "recipe"))
        with monkeypatch.context() as patch:
            refuse_output(patch, "b")
            assert world.run() == ["a", "b", "c"]
            assert world.run(2) == ["b"]
            assert (world.last().reason, world.state().tries) == ("photos failed for a reason that may pass", 1)
            assert world.run(2) == ["b"]
            assert world.tick(2) == []
            assert (world.state().tries, world.last().complete) == (3, True)
            note = world.overview().note
            assert "a reason that may pass, 3 runs in a row: 1; they are tried again with new photos, or by" in note
            world.photos("d")
            assert world.run(2) == ["b", "d"]
            assert world.tick(2) == []
        world.photos("e")
        assert world.run(2) == ["b", "e"]
        assert world.tick(2) == []
        assert world.overview().note == ""
        assert set(world.recipes()) == {"a", "b", "c", "d", "e"}

    def test_where_too_many_failed_the_run_is_made_again(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """Their names are not kept without bound: a store that was down for long is no matter of single photos."""
        monkeypatch.setattr(outcome, "MAX_AGAIN", 1)
        world.photos("a", "b", "c")
        world.now += timedelta(hours=2)
        world.add(on_change=("new",))
        with monkeypatch.context() as patch:
            refuse_output(patch, "b", "c")
            world.run()
        assert world.run(2) == ["a", "b", "c"]
        assert world.last().reason == "the last run broke off"

    def test_a_source_that_is_too_large_is_not_planned_at_each_moment(self, world: World) -> None:
        """What fits is done once, the state says what was left out, until a run of all photos finds room."""
        world.photos("a", "b", "c")
        world.now += timedelta(hours=2)
        world.add(on_change=("new",))
        world.settings = world.settings.model_copy(update={"max_batch_photos": 2})
        assert world.run() == ["a", "b"]
        assert world.tick(2) == []
        assert "has more than 2 photos, and the rest was left out" in world.overview().note
        world.photos("d")
        assert world.run(2) == ["d"]
        assert world.tick(2) == []
        assert "run-now nightly" in world.overview().note
        world.settings = world.settings.model_copy(update={"max_batch_photos": 9})
        world.change(asked_at=world.now.isoformat(), asked_all=True)
        assert world.run() == ["a", "b", "c", "d"]
        assert world.tick(2) == []
        assert world.overview().note == ""

    def test_asked_for_it_runs_whatever_has_changed(self, world: World) -> None:
        """`run-now`: every photo is looked at, also where an output was deleted behind the schedule's back."""
        world.photos("a", "b")
        world.now += timedelta(hours=2)
        world.add(on_change=("new",))
        world.run()
        world.destination.delete("a.jpg")
        assert world.tick(2) == []
        world.change(asked_at=world.now.isoformat(), asked_all=True)
        assert world.run() == ["a", "b"]
        assert set(world.recipes()) == {"a", "b"}
        assert world.tick(0.5) == []


class TestRollout:
    def test_a_new_recipe_comes_to_a_fraction_first(self, world: World) -> None:
        """The story: rolled out to a part, new photos on both sides, a larger part, then everything."""
        light, strong = load_recipe("light").id, load_recipe("strong").id
        keys = [f"{number:03}" for number in range(60)]
        world.photos(*keys)
        world.now += timedelta(hours=2)
        world.add(on_change=("new", "recipe"))
        world.run()
        assert set(world.recipes().values()) == {light}

        world.change(rollout={"recipe": {"name": "strong"}, "fraction": 0.2}, revision=2)
        part = world.run(2)
        assert {key for key, recipe in world.recipes().items() if recipe == strong} == set(part)
        assert 3 < len(part) < 25
        assert [batch.part for batch in world.run_batches()] == ["fraction", "rest"]

        new = [f"new{number}" for number in range(20)]
        world.now += timedelta(hours=2)
        world.photos(*new)
        assert sorted(world.run(2)) == sorted(new)
        strong_now = {key for key, recipe in world.recipes().items() if recipe == strong}
        assert strong_now > set(part)
        assert set(new) - strong_now, "new photos outside the fraction have the old recipe"
        assert set(world.recipes()) == {*keys, *new}
        assert world.tick(2) == []

        world.change(rollout={"recipe": {"name": "strong"}, "fraction": 0.5}, revision=3)
        world.run(2)
        assert {key for key, recipe in world.recipes().items() if recipe == strong} > strong_now

        world.change(rollout=None, recipe={"name": "strong"}, revision=4)
        world.run(2)
        assert set(world.recipes().values()) == {strong}
        assert world.tick(2) == []

    def test_rolled_back_the_fraction_alone_is_run_again(self, world: World) -> None:
        """What was never touched is not planned once more."""
        world.photos(*[f"{number:03}" for number in range(60)])
        world.now += timedelta(hours=2)
        world.add(on_change=("new", "recipe"))
        world.run()
        world.change(rollout={"recipe": {"name": "strong"}, "fraction": 0.2}, revision=2)
        part = world.run(2)
        world.change(rollout=None, revision=3, asked_at=world.now.isoformat())
        assert sorted(world.run()) == sorted(part)
        assert set(world.recipes().values()) == {load_recipe("light").id}
        assert world.tick(2) == []

    def test_a_rollout_that_broke_off_is_rolled_back_whole(self, world: World) -> None:
        """Half of the fraction has the new recipe, and no run says so: they are found all the same."""
        world.photos(*[f"{number:03}" for number in range(60)])
        world.now += timedelta(hours=2)
        world.add(on_change=("new", "recipe"))
        world.run()
        world.change(rollout={"recipe": {"name": "strong"}, "fraction": 0.3}, revision=2)
        world.tick(2)
        del world.sent[1:]
        world.work()
        assert load_recipe("strong").id in world.recipes().values()
        for part in world.last().parts:
            world.ledger.stop(part.batch, "cancelled")
        world.change(rollout=None, revision=3, asked_at=world.now.isoformat())
        world.run()
        assert set(world.recipes().values()) == {load_recipe("light").id}

    def test_asked_for_while_a_run_goes_on_it_comes_after(self, world: World) -> None:
        """A rollback is not forgotten because the rollout is still at work."""
        world.photos("a")
        world.add(on_change=("new",))
        world.tick()
        world.change(asked_at=(world.now + timedelta(minutes=1)).isoformat())
        assert world.tick(1.5) == []
        world.work()
        assert len(world.tick(0.1)) == 1
        assert world.last().reason == "asked for"
