"""Where the filter works on several photos side by side, a shard ends as it does with one lane."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from apf.runtime.stage_clock import StageClock
from tests.workers.execution.test_shard_pipeline import Scene
from tests.workers.fakes import FakeEngine
from workers.core.records import Outcome
from workers.execution.shard_pipeline import ShardPreempted


class LanedEngine(FakeEngine):
    """Three photos at once, each for a while, and counts them."""

    def __init__(self, seconds: float = 0.02) -> None:
        super().__init__(lanes=3, pixels=5_000_000)  # more than a first batch takes together with another
        self.seconds = seconds
        self.at_once = self.most_at_once = 0
        self._count = threading.Lock()

    def protect(self, photos: Sequence[Any], clock: StageClock) -> list[Any]:
        with self._count:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            time.sleep(self.seconds)
            return super().protect(photos, clock)
        finally:
            with self._count:
                self.at_once -= 1


@pytest.fixture
def scene(request: pytest.FixtureRequest) -> Scene:
    name = str(request.node.name).replace("[", "-").replace("]", "").replace("_", "-")
    words = ["one", "corrupt", "empty", "poison", "two", "three"]
    found = Scene(name, {f"{number:02}.jpg": words[number % 6].encode() for number in range(36)}, read_threads=8)
    found.engine = LanedEngine()
    return found


def test_every_photo_has_the_outcome_that_it_has_with_one_lane(scene: Scene) -> None:
    """Three photos are worked on at once, never more; those that fail take nobody with them."""
    found = {key: (report.outcome, report.faces) for key, report in scene.run().items()}
    engine, outputs = scene.engine, scene.outputs()
    for key in outputs:
        scene.destination.delete(key)
    scene.engine = FakeEngine()
    assert found == {key: (report.outcome, report.faces) for key, report in scene.run().items()}
    assert outputs == scene.outputs()
    assert isinstance(engine, LanedEngine)
    assert engine.most_at_once == 3
    assert max(engine.batches) == 1


def test_an_upload_is_let_ahead(scene: Scene) -> None:
    """The shard is left after photos that were begun, whose outputs are there."""
    runner = scene.runner()
    runner.overtaken = lambda: len(scene.engine.batches) > 4
    with pytest.raises(ShardPreempted):
        runner.run(scene.refs)
    written = [report for report in runner.reports if report.outcome in (Outcome.protected, Outcome.no_face)]
    assert 4 < len(scene.engine.batches) < 12
    assert len(scene.outputs()) == len(written)


def test_a_stop_from_another_thread_ends_all_lanes(scene: Scene) -> None:
    """As when the batch is cancelled: `run` raises the reason, and no thread stays."""
    scene.engine = LanedEngine(0.2)
    runner = scene.runner()
    threading.Timer(0.3, runner.stop, [RuntimeError("cancelled")]).start()
    with pytest.raises(RuntimeError, match="cancelled"):
        runner.run(scene.refs)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("filter", "read", "write"))]


def test_a_time_limit_in_the_main_thread_ends_all_lanes(scene: Scene) -> None:
    """Celery raises it there, wherever that thread is; the other lanes end after their photo."""

    class Limited(LanedEngine):
        def protect(self, photos: Sequence[Any], clock: StageClock) -> list[Any]:
            if threading.current_thread() is threading.main_thread() and len(self.batches) > 6:
                raise SoftTimeLimitExceeded
            return super().protect(photos, clock)

    scene.engine = Limited()
    with pytest.raises(SoftTimeLimitExceeded):
        scene.runner().run(scene.refs)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("filter")]
    assert len(scene.outputs()) < 30
