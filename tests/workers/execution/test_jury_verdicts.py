"""The jury's word from the real filter to reports, marks, totals and looks, and batches whose weak photos fail."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any

import pytest
import skimage.data
from PIL import Image
from pydantic import create_model

from apf.attack.jury import Verdict
from apf.errors import RecipeError
from apf.filters.load import load_filter
from apf.protect.pipeline import protect_photo
from apf.recipe import Recipe, load_recipe, make_recipe
from apf.runtime.stage_clock import StageClock
from tests.workers.execution.test_private_engine import gradient_file
from tests.workers.execution.test_run_shard import Planned
from tests.workers.execution.test_shard_pipeline import Scene, make_batch
from tests.workers.execution.test_shard_pipeline import name as name  # noqa: PLC0414  a fixture
from tests.workers.fakes import FakeBroker, FakeEngine, FakePhoto, FakeProtected
from tests.workers.ledger.test_report_cache import done as done  # noqa: PLC0414  a fixture
from tests.workers.schedules.world import World
from tests.workers.schedules.world import world as world  # noqa: PLC0414  a fixture
from workers.batches.create import BatchOptions, new_batch
from workers.batches.retry import retry
from workers.config.settings import Settings
from workers.core.records import Batch, Outcome, PhotoReport, ShortReport, Totals, Word, WorkerOutput
from workers.execution.engine import FilterEngine
from workers.execution.load_engine import load_engine
from workers.ledger.batch_ledger import Ledger
from workers.schedules.compare import Side
from workers.schedules.edit import add_schedule
from workers.schedules.trigger import Trigger
from workers.status.batch_status import BatchMonitor
from workers.store import open_store

#: Far too little for the probe, which is juror and no guide; and so much that even its own guide lets go.
FEW = {"name": "few", "epsilon_levels": 1, "steps": 1, "jury": ("probe",)}
ENOUGH = {"name": "enough", "epsilon_levels": 24, "steps": 24, "guides": ("probe",)}


def portrait() -> bytes:
    """An astronaut's head and shoulders."""
    encoded = io.BytesIO()
    Image.fromarray(skimage.data.astronaut()[:256, 100:356]).save(encoded, "JPEG", quality=92)
    return encoded.getvalue()


class Real(Scene):
    """A scene with the real filter."""

    def __init__(self, name: str, recipe: Recipe, **batch: Any) -> None:
        super().__init__(name, {"a.jpg": portrait()}, device="cpu")
        self.batch = self.batch.model_copy(update={"recipe": recipe, **batch})
        self.engine = FilterEngine(recipe, self.settings, StageClock())  # type: ignore[assignment]

    def report(self) -> PhotoReport:
        return self.run()["a.jpg"]


@pytest.fixture(scope="module")
def few() -> Recipe:
    return make_recipe(FEW)


def test_a_report_has_the_jurys_word_on_each_face(name: str, few: Recipe) -> None:
    """The library's own verdict, rounded, in few bytes; the output is marked, so that another try knows the number."""
    scene = Real(name, few)
    report = scene.report()
    (verdict,) = protect_photo(portrait(), load_filter(few)).verdicts
    assert verdict is not None
    assert verdict.weak and verdict.independent
    assert (report.outcome, report.faces, report.weak) == (Outcome.protected, 1, 1)
    assert report.words == (Word(likeness=round(verdict.likeness, 3), independent=True),)
    line = json.loads(report.model_dump_json())
    assert line["words"] == [{"likeness": round(verdict.likeness, 3), "independent": True}]
    info = scene.destination.head("a.jpg")
    assert info is not None
    assert info.metadata["apf-weak"] == "1"
    again = scene.report()
    assert (again.outcome, again.faces, again.weak, again.words) == (Outcome.protected, 1, 1, ())
    totals = Totals.of([report])
    assert (totals.weak_faces, totals.weak_photos) == (1, 1)


def test_a_face_that_its_own_guide_lets_go_is_not_weak(name: str) -> None:
    """Without jurors the word is the guide's, and the report says that it is not independent; there is no mark."""
    scene = Real(name, make_recipe(ENOUGH), on_weak="fail")
    report = scene.report()
    (word,) = report.words
    assert word.likeness is not None
    assert word.likeness < 1
    assert (report.outcome, report.weak, word.independent) == (Outcome.protected, 0, False)
    info = scene.destination.head("a.jpg")
    assert info is not None
    assert "apf-weak" not in info.metadata


def test_a_weak_photo_fails_where_the_batch_says_so(name: str, few: Recipe) -> None:
    """Nothing is written; the reason names the faces and what helps, and a later try is not said to."""
    scene = Real(name, few, on_weak="fail")
    report = scene.report()
    assert scene.outputs() == {}
    assert (report.outcome, report.transient, report.weak, len(report.words)) == (Outcome.failed, False, 1, 1)
    assert report.reason == (
        "1 of 1 faces is weak: a juror still knows it (--on-weak fail), so it is not published: protect it by "
        "a stronger recipe, or one with more steps or guides"
    )


def test_what_an_earlier_batch_let_pass_fails_and_stays(name: str, few: Recipe) -> None:
    """It is not skipped as done, and nobody's output is taken away."""
    scene = Real(name, few)
    scene.run()
    before = scene.outputs()
    scene.batch = scene.batch.model_copy(update={"id": "b2", "on_weak": "fail"})
    report = scene.report()
    assert (report.outcome, report.transient, report.weak) == (Outcome.failed, False, 1)
    assert "its output is there, from a batch that let it pass: delete that" in str(report.reason)
    assert scene.outputs() == before
    scene.batch = scene.batch.model_copy(update={"on_weak": "publish"})
    assert scene.report().outcome is Outcome.skipped


def test_without_steps_and_without_photos_there_is_no_word(name: str) -> None:
    """Recipe `modules` asks no jury, and of gradient files none could see the photo."""
    plain = Real(f"{name}-modules", load_recipe("modules")).report()
    assert (plain.faces, plain.words, plain.weak) == (1, (), 0)
    scene = Scene(f"{name}-private", {"a.safetensors": gradient_file(0)}, device="cpu")
    recipe = load_recipe("light")
    scene.batch = scene.batch.model_copy(update={"private": True, "recipe": recipe})
    scene.engine = load_engine(recipe, scene.settings, private=True)  # type: ignore[assignment]
    private = scene.run()["a.safetensors"]
    assert (private.outcome, private.words, private.weak) == (Outcome.protected, (), 0)


@dataclass(frozen=True)
class Judged(FakeProtected):
    verdicts: tuple[Verdict | None, ...]


class Judging(FakeEngine):
    """The first face of photos that begin with `weak` is weak; no juror can say of those that begin with `lost`."""

    def _protected(self, photo: FakePhoto) -> FakeProtected:
        likeness = {b"weak": 1.2, b"lost": float("inf")}.get(photo.data[:4], 0.25)
        made = super()._protected(photo)
        return Judged(**vars(made), verdicts=tuple(Verdict(likeness / (1 + face), True) for face in range(2)))


def judged(name: str, *photos: bytes, **fields: Any) -> Planned:
    planned = Planned(name, *photos)
    planned.engine = Judging()
    planned.batch = planned.batch.model_copy(update=fields)
    planned.ledger.write_batch(planned.batch)
    return planned


def test_a_batchs_sums_count_weak_faces_and_their_photos(name: str) -> None:
    """In what the worker returns, in a look, and in the ledger, where infinity is no JSON number."""
    planned = judged(name, b"weak 1", b"fine", b"lost", b"weak 2")
    totals = planned.run()
    assert (totals.weak_faces, totals.weak_photos, totals.faces) == (4, 3, 8)
    summary = BatchMonitor(planned.ledger, "b1").poll()
    assert (summary.weak_faces, summary.weak_photos, summary.protected) == (4, 3, 4)
    report = planned.ledger.read_report("b1", 0)
    assert report is not None
    assert [photo.weak for photo in report.photos] == [1, 0, 2, 1]
    assert [word.likeness for word in report.photos[2].words] == [None, None]


def test_a_weak_photo_that_is_retried_counts_once(name: str) -> None:
    """Its failure is another's stand-in: `apf retry` comes to the same, and adds nothing up."""
    planned = judged(name, b"weak", b"fine", on_weak="fail")
    planned.run()
    sent: list[Any] = []
    assert retry(planned.ledger, "b1", FakeBroker(sent.append), Settings()) == 1
    (planned.job,) = sent
    planned.run()
    summary = BatchMonitor(planned.ledger, "b1").poll()
    assert (summary.weak_faces, summary.weak_photos, summary.failed, summary.protected) == (1, 1, 1, 1)


def test_a_report_of_the_version_before_has_no_weak_face() -> None:
    """Fields that are missing have defaults."""
    line = {"key": "a", "etag": "e", "outcome": "protected", "faces": 2}
    photo = PhotoReport.model_validate_json(json.dumps(line))
    assert (photo.words, photo.weak) == ((), 0)
    assert Totals.model_validate({"photos": 1, "faces": 2}).weak_faces == 0


def test_the_version_before_reads_a_report_with_words() -> None:
    """It passes over what it does not know, as of all that workers tell."""
    known = {n: (f.annotation, f) for n, f in PhotoReport.model_fields.items() if n not in ("words", "weak")}
    before: Any = create_model("Before", __base__=WorkerOutput, **known)  # type: ignore[call-overload]
    report = PhotoReport(
        key="a", etag="e", outcome=Outcome.protected, faces=1, words=(Word(likeness=1.2),), weak=1
    ).model_dump_json()
    assert before.model_validate_json(report).faces == 1


def test_an_older_versions_digest_hides_no_weak_face(done: tuple[Ledger, Batch]) -> None:
    """It has read a newer worker's reports, and noted their sums without what it did not know."""
    ledger, known = done
    report = ledger.read_report("b1", 0)
    assert report is not None
    weak = report.photos[0].model_copy(update={"weak": 2})
    ledger.write_report("b1", report.model_copy(update={"photos": (weak, *report.photos[1:])}))
    BatchMonitor(ledger, known.id).poll()
    lines = [line.model_dump() for line in ledger.read_digest("b1")]
    for line in lines:
        del line["totals"]["weak_faces"], line["totals"]["weak_photos"]
    header, *_ = ledger.store.get(ledger.key("b1", "digest.jsonl")).data.split(b"\n")
    text = "".join(json.dumps(line) + "\n" for line in lines).encode()
    ledger.store.put(ledger.key("b1", "digest.jsonl"), header + b"\n" + text)
    assert len(ledger.read_digest("b1")) > 0, "it is a digest as that version wrote it"
    assert isinstance(ledger.read_digest("b1")[0], ShortReport)
    assert BatchMonitor(ledger, known.id).poll().weak_faces == 2


def test_a_jury_that_there_is_not_is_no_reason_to_fail(name: str, few: Recipe) -> None:
    """Without steps, and in private mode, `fail` would let everything pass: it is refused where it is asked for."""
    source = open_store(f"memory://{name}-in")
    source.put("a.jpg", b"x")

    def asked(recipe: str | Recipe, **fields: Any) -> Batch:
        wanted = BatchOptions(recipe=recipe, on_weak="fail", **fields)
        return new_batch(source.url, f"memory://{name}-out", wanted, Settings())[1]

    with pytest.raises(RecipeError, match=r"'modules' has none, as it takes no steps: use one with steps"):
        asked("modules")
    with pytest.raises(RecipeError, match="in private mode none sees the photo"):
        asked("standard", private=True)
    assert asked(few).on_weak == "fail"


class TestSchedules:
    def test_a_schedules_batches_ask_as_it_does(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each of its runs has weak photos fail."""
        monkeypatch.setenv("APF_STEPS", "2")
        world.add(on_weak="fail", recipe="standard")
        world.photos("a")
        world.run()
        assert [batch.on_weak for batch in world.run_batches()] == ["fail"]

    def test_a_schedule_without_a_jury_is_refused(self, world: World) -> None:
        """It is told when it is added, and not at its first run."""
        fields = {
            "name": "s", "source": world.source.url, "destination": world.destination.url, "on_weak": "fail",
            "trigger": Trigger(every_s=60, first=world.now.isoformat()), "recipe": {"name": "modules"},
        }  # fmt: skip
        with pytest.raises(RecipeError, match="'modules' has none"):
            add_schedule(fields, world.settings)

    def test_a_rollouts_weak_faces_are_compared(self, few: Recipe) -> None:
        """Those of published photos and of failed ones, by photo."""
        side = Side(few)
        for weak, outcome in (
            (2, Outcome.protected),
            (1, Outcome.failed),
            (0, Outcome.no_face),
            (0, Outcome.protected),
        ):
            side.take(PhotoReport(key="a", etag="e", outcome=outcome, weak=weak))
        assert side.as_dict()["weak_faces_per_photo"] == 0.75


def test_a_batch_that_publishes_all_is_written_as_before() -> None:
    """Workers of the version before do it; with `fail` they leave it alone (test_versions.py)."""
    batch = make_batch("memory://a", "memory://b")
    assert "on_weak" not in json.loads(batch.model_dump_json())
    assert Batch.model_validate_json(batch.model_copy(update={"on_weak": "fail"}).model_dump_json()).on_weak == "fail"
