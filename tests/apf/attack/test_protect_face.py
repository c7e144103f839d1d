"""From a face in its photo to its change: steps, the jury's word, and whole photos."""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apf.attack.canvas import Canvas
from apf.attack.gradient_steps import Climb, climb, identity, seen_by, start_climb
from apf.attack.jury import Verdict, verdict
from apf.attack.perturbation import KNOTS, Change
from apf.attack.protect_face import FIRST_ROOM, FIRST_STEPS, Hidden, Task, hide
from apf.attack.recipe_guides import Guides, load_guides
from apf.errors import GuideError
from apf.faces.alignment import CROP, align, alignment
from apf.filters.load import PhotoFilter, load_filter
from apf.filters.torch_filter import Filter
from apf.guides import Guide, load_guide
from apf.photo import decode
from apf.protect.pipeline import protect_batch, protect_photo
from apf.recipe import Recipe, load_recipe, make_recipe
from apf.runtime.stage_clock import StageClock
from tests.apf.attack.scenes import STANDARD

START = Change(
    np.random.default_rng(0).uniform(-1, 1, (3, CROP, CROP)).astype(np.float32),
    np.random.default_rng(1).uniform(-1, 1, (2, KNOTS, KNOTS)).astype(np.float32),
)


def stepping(steps: int, **more: object) -> Recipe:
    """`standard` with so many steps."""
    return make_recipe({"name": "stepping", "epsilon_levels": 8, "steps": steps, "guides": ("dlib",), **more})


def with_threshold(guide: Guide, threshold: float) -> Guide:
    """The same recogniser, as one that takes more or fewer for one person."""
    other = copy.copy(guide)
    other.threshold = threshold
    return other


class Counted:
    """A guide that counts the steps that climb on it."""

    def __init__(self, guide: Guide) -> None:
        self.guide, self.steps = guide, 0
        self.embed, self.centre, self.threshold = guide.embed, guide.centre, guide.threshold

    def climb(self, crops: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.steps += 1
        return self.guide.climb(crops, reference)


@pytest.fixture
def task(portrait: np.ndarray, matrix: np.ndarray) -> Task:
    return Task(portrait, matrix, grey=False, start=Change(START.noise * 0))


def judged(face: Climb, jury: Sequence[Guide], *, independent: bool = True) -> Verdict:
    crop = seen_by(face.canvas.pixels.astype(np.float32), face.canvas.matrix)
    return verdict(face, jury, [identity(juror, crop) for juror in jury], independent=independent)


def test_the_jury_knows_a_face_that_nothing_was_done_to(
    portrait: np.ndarray, matrix: np.ndarray, dlib: Guide, probe: Guide
) -> None:
    """Its likeness is above one for each juror, who is the strictest one that counts: the face is weak."""
    face = start_climb(portrait, matrix, [], STANDARD)
    alone = [judged(face, [juror]).likeness for juror in (dlib, probe)]
    assert all(likeness > 1.5 for likeness in alone)
    said = judged(face, [dlib, probe])
    assert said.weak and said.independent and said.likeness == max(alone)
    assert not judged(face, [dlib], independent=False).independent


def test_steps_convince_the_jury(portrait: np.ndarray, matrix: np.ndarray, dlib: Guide) -> None:
    """The likeness falls with the steps, to below one, from where on a face is not weak."""
    face, said = start_climb(portrait, matrix, [dlib], STANDARD), []
    for _ in range(3):
        said.append(judged(face, [dlib]))
        climb(face, [dlib], 5)
    assert said[0].likeness > said[1].likeness > said[2].likeness
    assert (said[0].weak, said[2].weak) == (True, False)


def test_being_judged_changes_no_step(portrait: np.ndarray, matrix: np.ndarray, dlib: Guide, probe: Guide) -> None:
    """A verdict takes none of the steps' random numbers, and gives the same word when it is asked again."""
    quiet, asked = (start_climb(portrait, matrix, [dlib], STANDARD) for _ in range(2))
    climb(quiet, [dlib], 2)
    climb(asked, [dlib], 2)
    assert judged(asked, [probe]) == judged(asked, [probe])
    for face in (quiet, asked):
        climb(face, [dlib], 1)
    np.testing.assert_array_equal(quiet.change.noise, asked.change.noise)


def test_without_steps_the_answer_is_drawn_as_it_is(task: Task) -> None:
    """The three modules' answer, warp included, and no word of a jury; no guide is needed."""
    clock = StageClock()
    (found,) = hide([Task(task.pixels, task.matrix, False, START)], stepping(0), Guides(), clock)
    assert found.change is START and found.verdict is None and not clock.seconds


def test_without_a_jury_the_guides_say_how_it_stands(task: Task, dlib: Guide) -> None:
    """All steps are taken, and the verdict says that it is not independent."""
    counted, clock = Counted(dlib), StageClock()
    (found,) = hide([task], stepping(4), Guides((counted,)), clock)  # type: ignore[arg-type]
    assert counted.steps == 4 and found.verdict is not None and not found.verdict.independent
    assert set(clock.seconds) == {"steps"}


@pytest.mark.parametrize(("steps", "first"), [(4, 2), (5, 2), (1, 1)])
@pytest.mark.parametrize("safe", [True, False], ids=["safe", "stubborn"])
def test_safe_faces_stop_early(task: Task, dlib: Guide, probe: Guide, steps: int, first: int, safe: bool) -> None:
    """A face that no juror knows after half of the steps keeps that, within less room; others get all of both."""
    counted, jury = Counted(dlib), with_threshold(probe, 5.0 if safe else 1e-3)
    (found,) = hide([task], stepping(steps), Guides((counted,), (jury,)))  # type: ignore[arg-type]
    assert found.verdict is not None and found.verdict.independent and found.verdict.weak is not safe
    assert counted.steps == (first if safe else steps) and first == max(1, round(FIRST_STEPS * steps))
    largest = np.abs(found.change.noise).max()
    assert largest == pytest.approx(FIRST_ROOM) if safe or steps == 1 else largest > FIRST_ROOM


def test_a_face_gets_the_same_whatever_is_beside_it(portrait: np.ndarray, matrix: np.ndarray, dlib: Guide) -> None:
    """To the bit, in any order, in any batch, on any thread; another start or another place gets another change."""
    turned = np.ascontiguousarray(portrait[:, ::-1])
    other = alignment(np.array([(511 - x, y) for x, y in _corners(matrix)]))
    tasks = [
        Task(portrait, matrix, False, START),
        Task(turned, other, False, START),
        Task(portrait, matrix, False, Change(-START.noise)),
    ]
    recipe, guides = stepping(2), Guides((dlib,))
    alone = [hide([task], recipe, guides)[0] for task in tasks]
    with ThreadPoolExecutor(2) as pool:
        batches = list(
            pool.map(lambda order: (order, hide([tasks[i] for i in order], recipe, guides)), ([2, 0, 1], [1, 1]))
        )
    for order, batch in batches:
        for index, found in zip(order, batch, strict=True):
            assert _same(found, alone[index])
    assert not _same(alone[0], alone[1]) and not _same(alone[0], alone[2])


def _corners(matrix: np.ndarray) -> list[tuple[float, float]]:
    """Five landmarks of a face, left and right changed, for its mirror image."""
    points = np.array([[73.53, 51.5], [38.29, 51.7], [56.03, 71.74], [70.73, 92.2], [41.55, 92.37]])
    found = np.linalg.solve(matrix[:, :2], (points - matrix[:, 2]).T).T
    return [(float(x), float(y)) for x, y in found]


def _same(one: Hidden, other: Hidden) -> bool:
    fields = one.change.field, other.change.field
    return (
        np.array_equal(one.change.noise, other.change.noise)
        and all(field is not None for field in fields)
        and np.array_equal(*fields)
        and one.verdict == other.verdict
    )


def test_guides_are_loaded_for_steps_alone() -> None:
    """In the recipe's order, climbed on and jury apart; a recipe without steps needs none."""
    assert load_guides(stepping(0)) == Guides()
    found = load_guides(stepping(2, jury=("probe",)))
    assert [guide.name for guide in found.climbed] == ["dlib"]
    assert [guide.name for guide in found.jury] == ["probe"]


def test_a_guide_that_is_not_here_is_told(tmp_path: Path) -> None:
    """A GuideError that names it."""
    recipe = stepping(2).model_copy(update={"guides": (str(tmp_path / "gone.onnx"),)})
    with pytest.raises(GuideError, match=r"gone\.onnx cannot be read"):
        load_guides(recipe)


# Whole photos


@pytest.fixture(scope="module")
def few_steps() -> PhotoFilter:
    """As a user's recipe of three steps."""
    return load_filter(stepping(3))


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_photo_comes_out_the_same_whatever_is_beside_it(few_steps: PhotoFilter, portrait: np.ndarray) -> None:
    """With steps as without: to the bit, alone and among others, and again by a filter that is loaded anew."""
    photo, other = decode(png(portrait[:280, 90:370])), decode(png(portrait[:280, 90:370][:, ::-1].copy()))
    alone = protect_batch([photo], few_steps)[0]
    assert alone.outcome == "protected" and len(alone.verdicts) == 1
    for found in protect_batch([other, photo, photo], load_filter(few_steps.recipe))[1:]:
        np.testing.assert_array_equal(found.pixels, alone.pixels)
        assert found.verdicts == alone.verdicts


def test_the_outcome_carries_the_jurys_word(few_steps: PhotoFilter, portrait: np.ndarray) -> None:
    """Each face has a verdict, and weak ones are counted; the file that is published tells them, too."""
    pixels = portrait[:280, 90:370].copy()
    clock = StageClock()
    (found,) = protect_batch([decode(png(pixels))], few_steps, clock)
    assert "steps" in clock.seconds
    (said,) = found.verdicts
    assert said is not None and not said.independent
    assert found.weak == int(said.weak)
    published = protect_photo(png(pixels), few_steps)
    assert published.verdicts == found.verdicts
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(published.data))), found.pixels)
    without = protect_batch([decode(png(pixels))], load_filter(stepping(0)))[0]
    assert (without.verdicts, without.weak) == ((None,), 0)


def test_both_filters_take_the_same_steps(few_steps: PhotoFilter, portrait: np.ndarray) -> None:
    """By torch and without it the modules' answers differ by rounding alone, and so do photos, all but a few pixels."""
    photo = decode(png(portrait[:280, 90:370]))
    one, other = (protect_batch([photo], filter)[0] for filter in (few_steps, Filter.load(few_steps.recipe)))
    moved = (one.pixels != photo.pixels).any(2)
    close = np.abs(one.pixels.astype(int) - other.pixels)[moved]
    assert (close <= 1).mean() > 0.9


def test_steps_hide_a_face_from_a_recogniser_that_they_never_saw(shared_models: Path, portrait: np.ndarray) -> None:
    """Twenty steps on dlib's network or three on ours: another recogniser knows the face far less than by `modules`."""
    stranger, data = load_guide(str(shared_models / "mfn_xiaoccer.onnx")), png(portrait[:300, 80:380].copy())
    recipes = {"modules": stepping(0), "standard": stepping(20), "fast": load_recipe("fast")}
    found = {name: protect_photo(data, load_filter(recipe)) for name, recipe in recipes.items()}
    (face,) = found["standard"].faces

    def seen(encoded: bytes) -> np.ndarray:
        crop = align(np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")), alignment(face.landmarks))
        return stranger.embed(crop[None])[0]

    likeness = {name: float(seen(one.data) @ seen(data)) for name, one in found.items()}
    assert likeness["standard"] < 0.45 and max(likeness["standard"], likeness["fast"]) < likeness["modules"] - 0.1


def test_a_face_has_one_canvas(monkeypatch: pytest.MonkeyPatch, few_steps: PhotoFilter, portrait: np.ndarray) -> None:
    """The steps' own is pasted from, so that its bound is found once; what only steps draw on is forgotten."""
    made: list[Canvas] = []
    begin = Canvas.__init__

    def noted(canvas: Canvas, *given: object) -> None:
        made.append(canvas)
        begin(canvas, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Canvas, "__init__", noted)
    (found,) = protect_batch([decode(png(portrait[:280, 90:370]))], few_steps)
    assert found.outcome == "protected" and len(made) == 1
    assert set(vars(made[0])) == {"to_photo", "matrix", "pixels", "_allowed", "bound"}
