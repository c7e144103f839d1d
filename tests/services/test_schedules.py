"""Schedules on a real queue: real `apf beat` processes on a fast clock, real workers, the operator's own commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from apf.recipe import load_recipe
from tests.command import apf
from tests.conftest import RedisServer
from tests.faults.strikes import flush_redis
from tests.faults.world import ROOT, World, closing_world, photos
from tests.waiting import until
from workers.schedules.repository import ScheduleRepository, repository_for

pytestmark = pytest.mark.timeout(280)

LIGHT, STRONG = load_recipe("light").id, load_recipe("strong").id
QUICK = {"APF_SCHEDULE_EVERY_S": "1", "APF_RECONCILE_EVERY_S": "1"}


@contextmanager
def platform(folder: Path, redis_server: RedisServer, count: int) -> Iterator[World]:
    """Photos in a folder, two clocks at once, and a worker."""
    source, out = (folder / "in").as_uri(), (folder / "out").as_uri()
    beats: list[subprocess.Popen[bytes]] = []
    with closing_world(World(folder, redis_server, source, out, photos(count, special={}), QUICK)) as world:
        try:
            with (folder / "beat.log").open("ab") as log:
                beats += [
                    subprocess.Popen(
                        [sys.executable, "-m", "producer", "beat"],
                        cwd=ROOT, env={**os.environ, **world.variables}, stdout=log, stderr=log,
                    )
                    for _ in range(2)
                ]  # fmt: skip
            world.start_worker()
            yield world
        finally:
            for beat in beats:
                beat.terminate()
                beat.wait(30)


def schedule(world: World, *args: str, code: int = 0) -> Any:
    """`apf schedule ... --json`, where the command knows that."""
    printed = apf("schedule", *args, code=code, **world.variables).stdout
    return json.loads(printed) if "--json" in args else printed


def repository(world: World) -> ScheduleRepository:
    return repository_for(world.destination_url, world.settings)


def recipes(world: World) -> dict[str, str]:
    """The recipe of each output, by key."""
    infos = (world.destination.head(info.key) for info in world.destination.list())
    return {info.key: info.metadata["apf-recipe"] for info in infos if info}


def test_two_beats_fire_each_moment_once(tmp_path: Path, redis_server: RedisServer) -> None:
    """Every three seconds a batch, though two clocks have two workers look every second, and Redis forgets all."""
    with platform(tmp_path, redis_server, 10) as world:
        added = schedule(world, "add", "often", world.source_url, world.destination_url, "--every", "3s",
                         "--recipe", "light", "--json")  # fmt: skip
        world.start_worker()
        until(lambda: len(world.ledger.batches()) >= 2, 60, "fired twice", world.log, every_s=0.3)
        flush_redis(world)
        until(lambda: len(world.ledger.batches()) >= 4, 60, "fired four times", world.log, every_s=0.3)
        schedule(world, "pause", "often")
        until(lambda: schedule(world, "show", "often", "--json")["last"]["status"] == "done", 30, "done", world.log)
        fired = [world.ledger.read_batch(batch_id) for batch_id in world.ledger.batches()]
        moments = [datetime.strptime(batch.id[:22], "%Y%m%d-%H%M%S-%f") for batch in fired]
        first = datetime.fromisoformat(repository(world).read("often").trigger.first).replace(tzinfo=None)
        assert added["next"][:19] == first.isoformat()[:19]
        spans = [(moment - first).total_seconds() for moment in moments]
        assert [span % 3 for span in spans] == [0] * len(spans), "for the trigger's own moments"
        assert len(set(moments)) == len(moments), "each once"
        for world.batch_id in [batch.id for batch in fired]:
            assert sorted(world.planned(world.summary())) == sorted(world.photos), "each photo is planned once"
        assert [world.summary().skipped, world.summary().pending] == [10, 0]
        world.check_outputs(dict.fromkeys(world.photos, "protected"))


@pytest.mark.rotating("long roads")
def test_a_recipe_is_rolled_out_compared_rolled_back_and_promoted(tmp_path: Path, redis_server: RedisServer) -> None:
    """An operator's story, from the first run to a new recipe on all photos; a new photo is never left unprotected."""
    with platform(tmp_path, redis_server, 40) as world:

        def run_is_over() -> bool:
            return schedule(world, "show", "library", "--json")["last"]["status"] == "done"

        schedule(world, "add", "library", world.source_url, world.destination_url, "--every", "2s",
                 "--on-change", "new", "--on-change", "recipe", "--recipe", "light")  # fmt: skip
        until(lambda: len(recipes(world)) == 40, 60, "all protected", world.log, every_s=0.3)
        until(run_is_over, 30, "the first run is over", world.log)

        recipe = tmp_path / "mine.toml"
        recipe.write_text('name = "strong"\nepsilon_levels = 12\nwarp_percent = 0.8\n')
        schedule(world, "change", "library", "--recipe", str(recipe), "--fraction", "0.3", "--now")
        recipe.unlink()  # the worker has no such file: the schedule keeps what it said
        until(lambda: STRONG in recipes(world).values(), 60, "rolled out", world.log, every_s=0.3)
        until(run_is_over, 30, "the rollout's run is over", world.log)
        part = {key for key, recipe_id in recipes(world).items() if recipe_id == STRONG}
        assert 4 <= len(part) <= 20

        more = {f"more/{number}.jpg": f"face more {number}".encode() for number in range(20)}
        for key, data in more.items():
            world.source.put(key, data)
            world.photos[key] = data
        until(lambda: len(recipes(world)) == 60, 60, "new photos are protected", world.log, every_s=0.3)
        until(run_is_over, 30, "their run is over", world.log)
        now = recipes(world)
        assert {key for key in now if now[key] == STRONG} > part
        assert {now[key] for key in more} == {LIGHT, STRONG}

        compared = schedule(world, "compare", "library", "--sample", "0", "--json")
        new, old = compared["new"], compared["old"]
        assert (new["recipe_id"], old["recipe_id"]) == (STRONG, LIGHT)
        assert new["photos"] == sum(recipe_id == STRONG for recipe_id in now.values())
        assert old["photos"] == len(part), "the same photos, as far as the old recipe ever ran on them"
        assert (new["rates"]["protected"], new["faces_per_photo"]) == (1.0, 1.0)

        schedule(world, "rollback", "library")
        until(lambda: set(recipes(world).values()) == {LIGHT}, 60, "rolled back", world.log, every_s=0.3)
        until(run_is_over, 30, "the way back is over", world.log)
        strong = tmp_path / "again.toml"
        strong.write_text('name = "strong"\nepsilon_levels = 12\nwarp_percent = 0.8\n')
        schedule(world, "change", "library", "--recipe", str(strong), "--fraction", "0.3", "--now")
        until(lambda: STRONG in recipes(world).values(), 60, "rolled out again", world.log, every_s=0.3)
        schedule(world, "promote", "library", "--now")
        until(lambda: set(recipes(world).values()) == {STRONG}, 60, "promoted", world.log, every_s=0.3)
        until(run_is_over, 30, "all over", world.log)
        world.check_outputs(dict.fromkeys(world.photos, "protected"))
