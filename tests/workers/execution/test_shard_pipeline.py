"""The shard runner: every photo ends with one outcome, nothing unprotected is written, and memory is bounded."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from apf.errors import WeightsError
from apf.recipe import load_recipe
from tests.memory_store import MemoryStore
from tests.workers.fakes import FakeEngine, FakePhoto
from workers.config.settings import Settings
from workers.core.records import Batch, Outcome, PhotoRef, PhotoReport
from workers.errors import StoreFull, StoreUnavailable
from workers.execution.byte_budget import BudgetClosed, ByteBudget
from workers.execution.shard_pipeline import ShardRunner
from workers.store import open_store
from workers.store.output_metadata import OUTCOME


def make_batch(source: str, destination: str, **fields: Any) -> Batch:
    own = {"recipe": load_recipe("standard"), **fields}
    return Batch(id="b1", source=source, destination=destination, created_at="2026-01-01T00:00:00+00:00", **own)


class Scene:
    """A source, a destination, and a runner between them."""

    def __init__(self, name: str, photos: Mapping[str, bytes], **settings: Any) -> None:
        self.source, self.destination = open_store(f"memory://{name}-in"), open_store(f"memory://{name}-out")
        for key, data in photos.items():
            self.source.put(key, data)
        self.refs = [PhotoRef(key=i.key, etag=i.etag, size=i.size) for i in self.source.list()]
        self.settings = Settings(**settings)
        self.engine = FakeEngine()
        self.batch = make_batch(self.source.url, self.destination.url)

    def runner(self) -> ShardRunner:
        return ShardRunner(
            batch=self.batch,
            source=self.source,
            destination=self.destination,
            settings=self.settings,
            engine=lambda: self.engine,
        )

    def run(self) -> dict[str, PhotoReport]:
        return {report.key: report for report in self.runner().run(self.refs)}

    def outputs(self) -> dict[str, bytes]:
        return {info.key: self.destination.get(info.key).data for info in self.destination.list()}


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return str(request.node.name).replace("[", "-").replace("]", "").replace("_", "-")


def test_every_photo_gets_its_outcome_and_only_protected_bytes_are_written(name: str) -> None:
    scene = Scene(name, {"a.jpg": b"one", "b.jpg": b"corrupt", "c.jpg": b"empty", "d.jpg": b"poison", "e.jpg": b"two"})
    reports = scene.run()
    outcomes = {key: report.outcome for key, report in reports.items()}
    assert outcomes == {
        "a.jpg": Outcome.protected,
        "b.jpg": Outcome.failed,
        "c.jpg": Outcome.no_face,
        "d.jpg": Outcome.failed,
        "e.jpg": Outcome.protected,
    }
    assert scene.outputs() == {"a.jpg": b"protected:one", "c.jpg": b"protected:empty", "e.jpg": b"protected:two"}
    assert reports["b.jpg"].reason == "the picture ends too early: save it again"
    assert "RuntimeError: the filter broke" in str(reports["d.jpg"].reason)
    assert reports["a.jpg"].faces == 2


def test_reports_keep_the_plans_order(name: str) -> None:
    scene = Scene(name, {f"{i:03}.jpg": b"x" for i in range(40)})
    assert [report.key for report in scene.runner().run(scene.refs)] == [ref.key for ref in scene.refs]


def test_outputs_carry_what_the_skip_needs_and_a_second_batch_skips_them_without_the_engine(name: str) -> None:
    scene = Scene(name, {"a.jpg": b"one", "b.jpg": b"empty"})
    scene.run()
    info = scene.destination.head("a.jpg")
    assert info is not None
    assert info.metadata["apf-source-etag"] == scene.refs[0].etag
    assert info.metadata["apf-recipe"] == scene.batch.recipe.id
    scene.batch = scene.batch.model_copy(update={"id": "b2"})
    scene.engine = None  # type: ignore[assignment]  # any use would fail
    assert {report.outcome for report in scene.run().values()} == {Outcome.skipped}


def test_a_second_attempt_of_the_same_batch_reports_what_the_first_one_did(name: str) -> None:
    scene = Scene(name, {"a.jpg": b"one", "b.jpg": b"empty"})
    scene.run()
    again = scene.run()
    assert again["a.jpg"].outcome is Outcome.protected
    assert again["a.jpg"].faces == 2
    assert again["b.jpg"].outcome is Outcome.no_face


@pytest.mark.parametrize("change", ["source", "recipe"])
def test_a_changed_source_or_recipe_is_protected_again(name: str, change: str) -> None:
    scene = Scene(name, {"a.jpg": b"one"})
    scene.run()
    if change == "source":
        info = scene.source.put("a.jpg", b"new version")
        scene.refs = [PhotoRef(key=info.key, etag=info.etag, size=info.size)]
    else:
        scene.batch = scene.batch.model_copy(update={"recipe": load_recipe("strong"), "id": "b2"})
    assert scene.run()["a.jpg"].outcome is Outcome.protected


def test_a_photo_that_changed_or_went_since_the_plan_fails_with_the_cure(name: str) -> None:
    scene = Scene(name, {"a.jpg": b"one", "b.jpg": b"two"})
    scene.source.put("a.jpg", b"another one")
    scene.source.delete("b.jpg")
    reports = scene.run()
    assert "run the command again" in str(reports["a.jpg"].reason)
    assert "deleted" in str(reports["b.jpg"].reason)
    assert [reports[key].code for key in ("a.jpg", "b.jpg")] == ["changed", "deleted"]
    assert scene.outputs() == {}


def test_no_face_skip_writes_nothing(name: str) -> None:
    scene = Scene(name, {"a.jpg": b"empty"})
    scene.batch = scene.batch.model_copy(update={"no_face": "skip"})
    assert scene.run()["a.jpg"].outcome is Outcome.no_face
    assert scene.outputs() == {}


def test_a_file_without_suffix_is_a_photo_only_if_its_bytes_say_so(name: str) -> None:
    scene = Scene(name, {"LICENSE": b"some text", "upload": b"\xff\xd8\xff\xe0 as a JPEG starts"})
    reports = scene.run()
    assert (reports["LICENSE"].outcome, reports["LICENSE"].reason) == (Outcome.skipped, "not a photo")
    assert reports["upload"].outcome is Outcome.protected


def test_a_photo_over_the_limit_fails_before_it_is_read(name: str) -> None:
    scene = Scene(name, {"a.jpg": b"x" * 100}, max_photo_bytes=99)
    report = scene.run()["a.jpg"]
    assert report.outcome is Outcome.failed
    assert "99" in str(report.reason)


def test_photos_share_batches_up_to_the_megapixels(name: str) -> None:
    scene = Scene(name, {f"{i}.jpg": b"x" for i in range(20)}, batch_megapixels=0.004)
    scene.run()
    assert sum(scene.engine.batches) == 20
    assert max(scene.engine.batches) <= 4


def test_decoded_photos_in_flight_are_bounded_by_their_bytes(name: str) -> None:
    scene = Scene(name, {f"{i}.jpg": b"x" for i in range(30)}, photo_buffer_bytes=36_000, read_threads=8)
    scene.engine.decode_s = 0.002
    reports = scene.run()
    assert scene.engine.decoded_at_once <= 3  # 1000 pixels of 12 bytes each
    assert len(reports) == 30


def test_a_photo_larger_than_the_budget_passes_alone(name: str) -> None:
    scene = Scene(name, {f"{i}.jpg": b"x" for i in range(4)}, photo_buffer_bytes=1, read_buffer_bytes=1)
    assert {report.outcome for report in scene.run().values()} == {Outcome.protected}


def test_a_filter_that_cannot_load_ends_the_shard_and_not_each_photo(name: str) -> None:
    scene = Scene(name, {f"{i}.jpg": b"x" for i in range(20)})
    runner = scene.runner()

    def broken() -> Any:
        raise WeightsError("weights are missing")

    runner.engine = broken
    with pytest.raises(WeightsError):
        runner.run(scene.refs)
    assert scene.outputs() == {}


def test_stop_ends_the_run_and_raises_its_reason(name: str) -> None:
    scene = Scene(name, {f"{i}.jpg": b"x" for i in range(200)}, read_threads=1)
    scene.engine.decode_s = 0.01
    runner = scene.runner()
    timer = threading.Timer(0.2, runner.stop, [KeyError("enough")])
    timer.start()
    with pytest.raises(KeyError):
        runner.run(scene.refs)
    timer.join()
    assert 0 < len(runner.reports) < 200


def test_a_store_that_is_down_makes_a_transient_failure(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(name, {"a.jpg": b"one"})

    def down(*_: object, **__: object) -> None:
        raise StoreUnavailable("the store answers 503: try again later")

    monkeypatch.setattr(MemoryStore, "put", down)
    report = scene.run()["a.jpg"]
    assert (report.outcome, report.transient) == (Outcome.failed, True)


def test_budget_lets_waiting_threads_go_when_it_closes() -> None:
    budget = ByteBudget(10)
    budget.acquire(10)
    raised = threading.Event()

    def wait() -> None:
        with pytest.raises(BudgetClosed):
            budget.acquire(1)
        raised.set()

    thread = threading.Thread(target=wait)
    thread.start()
    budget.close()
    thread.join(5)
    assert raised.is_set()


def test_a_source_that_is_not_mounted_is_no_deletion(tmp_path: Path) -> None:
    """The reason says what to mend, and not that the photos are gone."""
    scene = Scene("not-mounted", {})
    source = tmp_path / "source"
    store = open_store(source.as_uri(), create=True)
    store.put("a.jpg", b"one")
    scene.refs = [PhotoRef(key=i.key, etag=i.etag, size=i.size) for i in store.list()]
    scene.source = store
    shutil.rmtree(source)
    assert "mount it" in str(scene.run()["a.jpg"].reason)


def test_a_full_destination_ends_the_shard_with_what_is_written(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody computes photos for a disk that cannot take them."""
    scene = Scene(name, {f"{n:02}.jpg": b"x" for n in range(40)}, batch_megapixels=0.001)
    runner, put = scene.runner(), scene.destination.put

    def fills_up(key: str, *args: Any, **options: Any) -> Any:
        if len(scene.outputs()) >= 3:
            raise StoreFull("the disk is full: free some space")
        return put(key, *args, **options)

    monkeypatch.setattr(scene.destination, "put", fills_up)
    with pytest.raises(StoreFull):
        runner.run(scene.refs)
    outcomes = Counter(report.outcome for report in runner.reports)
    assert outcomes[Outcome.protected] == len(scene.outputs()) >= 3
    assert 1 <= outcomes[Outcome.failed] < 30
    assert len(scene.engine.batches) < 40


def test_metadata_that_no_worker_wrote_is_no_outcome(name: str) -> None:
    scene = Scene(name, {"a.jpg": b"one"})
    scene.run()
    metadata = {**scene.destination.get("a.jpg").info.metadata, OUTCOME: "nonsense"}
    scene.destination.put("a.jpg", b"odd", metadata=metadata)
    assert scene.run()["a.jpg"].outcome is Outcome.protected
    assert scene.outputs() == {"a.jpg": b"protected:one"}


def test_a_photo_over_the_limit_in_bytes_names_the_variable(name: str) -> None:
    """A photo that the store does not even hand over fails with its size, the limit and the variable."""
    report = Scene(name, {"a.jpg": b"x" * 100}, max_photo_bytes=50).run()["a.jpg"]
    assert report.outcome is Outcome.failed
    assert report.reason is not None
    assert "has 100 bytes, over the limit of 50: raise APF_MAX_PHOTO_BYTES" in report.reason


def test_metadata_that_was_left_out_is_noted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A photo that could not keep a tag is protected, and its report says which; reports without stay as they were."""
    monkeypatch.setattr(FakePhoto, "notes", ("the EXIF tag Artist was left out: why",), raising=False)
    report = Scene(name, {"a.jpg": b"one"}).run()["a.jpg"]
    assert (report.outcome, report.reason) == (Outcome.protected, None)
    assert report.note == "the EXIF tag Artist was left out: why"
    old = PhotoReport(key="a.jpg", etag="1", outcome=Outcome.protected)
    assert "note" not in old.model_dump_json(exclude_defaults=True)
    assert PhotoReport.model_validate_json('{"key": "a.jpg", "etag": "1", "outcome": "protected"}') == old
