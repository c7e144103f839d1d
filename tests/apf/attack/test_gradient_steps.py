"""Steps on guides: downhill for the likeness, within the room they have, and the same for the same photo."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from apf.attack import chances, gradient_steps
from apf.attack.bound import Bound
from apf.attack.canvas import Canvas
from apf.attack.chances import random_view
from apf.attack.gradient_steps import Climb, climb, identity, rendered, seen_by, start_climb, through_jpeg
from apf.attack.paste import paste
from apf.attack.perturbation import KNOTS, Change, in_colour, shifts
from apf.faces.alignment import CROP
from apf.faces.geometry import scale_of
from apf.guides import Guide
from tests.apf.attack.scenes import STANDARD, busy_photo, change, face_at


def likeness(face: Climb, guide: Guide) -> float:
    """What the guide says of the face as it is drawn so far, against the face as it was."""
    image = rendered(face.canvas, face.change, face.allowed, grey=face.grey)
    before = seen_by(face.canvas.pixels.astype(np.float32), face.canvas.matrix)
    return float(identity(guide, seen_by(image, face.canvas.matrix)) @ identity(guide, before))


def climbed(
    portrait: np.ndarray, matrix: np.ndarray, guides: list[Guide], count: int, allowed: Bound = STANDARD
) -> Climb:
    face = start_climb(portrait, matrix, guides, allowed)
    climb(face, guides, count)
    return face


@pytest.mark.parametrize(
    ("allowed", "at_most"),
    [(STANDARD, 0.45), (Bound(8, 0.45, 0), 0.7), (Bound(1e-3, 0.45, 0.03), 0.85)],
    ids=["both", "noise alone", "warp alone"],
)
def test_steps_lower_the_likeness(
    portrait: np.ndarray, matrix: np.ndarray, dlib: Guide, allowed: Bound, at_most: float
) -> None:
    """Six steps take the guide from knowing the face well; noise and warp each do their part."""
    face = start_climb(portrait, matrix, [dlib], allowed)
    assert likeness(face, dlib) > 0.97
    climb(face, [dlib], 6)
    assert likeness(face, dlib) < at_most


def test_further_guides_are_climbed_on_too(portrait: np.ndarray, matrix: np.ndarray, dlib: Guide, probe: Guide) -> None:
    """With two guides both know the face less; each has its own embedding of it."""
    face = climbed(portrait, matrix, [dlib, probe], 6)
    assert len(face.own) == 2 and len(face.own[0]) == 128
    alone = climbed(portrait, matrix, [dlib], 6)
    assert likeness(face, probe) < likeness(alone, probe) - 0.1
    assert likeness(face, dlib) < 0.7


def test_a_step_climbs_on_few_of_many_guides(
    monkeypatch: pytest.MonkeyPatch, portrait: np.ndarray, matrix: np.ndarray, probe: Guide
) -> None:
    """However many guides there are, a step asks two of them, and over the steps all have their turn."""
    asked: list[int] = []

    class Counted:
        """The probe, under a number."""

        def __init__(self, number: int) -> None:
            self.number, self.centre = number, probe.centre
            self.embed = probe.embed

        def climb(self, crops: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            asked.append(self.number)
            return probe.climb(crops, reference)

    climbed(portrait, matrix, [Counted(number) for number in range(3)], 6)  # type: ignore[misc]
    assert len(asked) == 6 * chances.A_STEP and set(asked) == {0, 1, 2}
    assert all(one != other for one, other in zip(asked[::2], asked[1::2], strict=True))


def test_the_same_photo_takes_the_same_steps(portrait: np.ndarray, matrix: np.ndarray, dlib: Guide) -> None:
    """To the bit: again, on other threads, after random numbers were drawn, and in a photo that has more beside it."""
    wanted = climbed(portrait, matrix, [dlib], 2).change
    np.random.default_rng().random(5)
    wider = np.concatenate([portrait, portrait[:, :100]], 1)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda photo: climbed(photo, matrix, [dlib], 2).change, [portrait, wider, portrait]))
    for one in found:
        assert wanted.field is not None and one.field is not None
        np.testing.assert_array_equal(one.noise, wanted.noise)
        np.testing.assert_array_equal(one.field, wanted.field)


def test_another_face_goes_another_way(portrait: np.ndarray, matrix: np.ndarray, dlib: Guide) -> None:
    """Another photo of the same person, be it another by one level, begins elsewhere: no two photos share a change."""
    other = portrait.copy()
    other[120, 220] ^= 1
    one, another = (start_climb(photo, matrix, [dlib], STANDARD).change for photo in (portrait, other))
    assert np.abs(one.noise - another.noise).mean() > 0.01


def test_the_steps_go_on_from_their_start(portrait: np.ndarray, matrix: np.ndarray) -> None:
    """Before its first step a face has the start's noise, reduced to the face's own size, and its warp."""
    start = np.random.default_rng(0).uniform(-1, 1, (3, CROP, CROP)).astype(np.float32)
    field = np.random.default_rng(1).uniform(-1, 1, (2, KNOTS, KNOTS)).astype(np.float32)
    face = start_climb(portrait, matrix, [], STANDARD, start=Change(start, field))
    np.testing.assert_array_equal(face.change.field, field)
    side = round(CROP / scale_of(matrix))
    assert face.change.noise.shape == (3, min(side, CROP), min(side, CROP))
    assert face.change.noise.mean() == pytest.approx(start.mean(), abs=1e-4)
    whole = start_climb(busy_photo(400, 400), face_at(200, 200, 300), [], STANDARD, start=Change(start))
    np.testing.assert_array_equal(whole.change.noise, start)
    assert whole.change.field is not None and np.abs(whole.change.field).max() < 5 * gradient_steps.START


@pytest.mark.parametrize("room", [0.3, 1.0])
def test_no_step_leaves_its_room(portrait: np.ndarray, matrix: np.ndarray, dlib: Guide, room: float) -> None:
    """Noise and field stay within the share of the bound that the steps were given, and use it."""
    face = start_climb(portrait, matrix, [dlib], STANDARD)
    climb(face, [dlib], 3, room=room)
    for latent in face.latents:
        assert np.abs(latent).max() == pytest.approx(room)


def test_without_a_warp_there_is_no_field(portrait: np.ndarray, matrix: np.ndarray, dlib: Guide) -> None:
    """A recipe of 0 % has none to draw, and no step is lost on it."""
    assert climbed(portrait, matrix, [dlib], 1, Bound(8, 0.45, 0)).change.field is None


def test_a_grey_face_is_climbed_in_grey(portrait: np.ndarray, matrix: np.ndarray, dlib: Guide) -> None:
    """All that is drawn on a grey photo is grey, and the likeness falls."""
    grey = np.repeat(portrait[..., 1:2], 3, 2)
    face = start_climb(grey, matrix, [dlib], STANDARD, grey=True)
    climb(face, [dlib], 4)
    image = rendered(face.canvas, face.change, STANDARD, grey=True)
    assert np.ptp(image, 2).max() < 1e-3
    assert likeness(face, dlib) < 0.7


@pytest.mark.parametrize("size", [60, 150, 300])
def test_steps_see_what_is_published(size: int) -> None:
    """The face that a view is of is the face that pasting makes, but for whole levels."""
    photo, matrix, one = busy_photo(420, 430), face_at(210, 205, size, 0.3), change(1)
    published = paste(photo, [one], [matrix], STANDARD)
    canvas = Canvas(photo, matrix, STANDARD)
    x, y = (round(at) for at in canvas.to_photo[:2, 2])
    seen = rendered(canvas, one, STANDARD)
    there = published[y : y + len(seen), x : x + len(seen[0])].astype(float)
    assert np.abs(seen - canvas.pixels).max() > 5
    assert np.abs(seen - there).max() < 3 and np.abs(seen - there).mean() < 0.5


def test_the_warps_gradient_is_the_transpose_of_shifts() -> None:
    """By finite differences, where vectors are shorter than the largest shift and where they are cut to it."""
    random = np.random.default_rng(0)
    face = start_climb(busy_photo(160, 160), face_at(80, 80, 120), [], STANDARD)
    gradient = random.standard_normal((CROP, CROP, 3)).astype(np.float32)
    for strength in (0.3, 1.0, 3.0):
        field = random.uniform(-strength, strength, (2, KNOTS, KNOTS)).astype(np.float32)
        face.latents[1] = field

        def said(moved: np.ndarray) -> float:
            shift = shifts(moved).astype(np.float64)
            return float(
                sum(((gradient * slope).sum(-1) * shift[..., axis]).sum() for axis, slope in enumerate(face.slopes))
            )

        found, wanted = gradient_steps._by_field(face, gradient), np.zeros_like(field)
        for index in np.ndindex(field.shape):
            step = np.zeros_like(field)
            step[index] = 1e-3
            wanted[index] = (said(field + step) - said(field - step)) / 2e-3
        # Some points pass the largest shift within the step.
        assert np.linalg.norm(found - wanted) < (1e-4 if strength < 1 else 0.02) * np.linalg.norm(wanted)


def test_the_fields_axes_are_those_of_the_slopes() -> None:
    """A face that grows brighter to the right is made darker at a point by what comes from its left, and only so."""
    x = np.arange(200)
    photo = np.ascontiguousarray(np.broadcast_to(x[None, :, None], (200, 200, 3)).astype(np.uint8))
    face = start_climb(photo, np.array([[1.0, 0, -44], [0, 1, -44]]), [], STANDARD)
    found = gradient_steps._by_field(face, np.ones((CROP, CROP, 3), np.float32))
    assert found[0].mean() > 1 and np.abs(found[1]).max() < 1e-6
    right = Change(face.latents[0] * 0, np.ones((2, KNOTS, KNOTS), np.float32))
    assert rendered(face.canvas, right, STANDARD)[100, 100, 0] > face.canvas.pixels[100, 100, 0]


@pytest.mark.parametrize("chroma", [0.0, 0.45, 1.0])
def test_the_noises_gradient_goes_through_bound_and_colour(chroma: float) -> None:
    """By finite differences, of what a pixel's noise makes of the drawn template."""
    allowed = Bound(8, chroma, 0)
    random = np.random.default_rng(1)
    face = start_climb(busy_photo(200, 200), np.array([[1.0, 0, -44], [0, 1, -44]]), [], allowed)
    gradient = random.standard_normal((CROP, CROP, 3)).astype(np.float32)
    noise, direction = (random.uniform(-0.4, 0.4, (3, CROP, CROP)).astype(np.float32) for _ in range(2))

    def said(moved: np.ndarray) -> float:
        drawn = in_colour(moved, chroma).transpose(1, 2, 0) * face.canvas.template_bound()[..., None]
        return float((drawn.astype(np.float64) * gradient).sum())

    wanted = (said(noise + 0.1 * direction) - said(noise - 0.1 * direction)) / 0.2
    assert float((gradient_steps._by_noise(face, gradient) * direction).sum()) == pytest.approx(wanted, rel=1e-3)


def test_views_are_near_the_template_and_half_of_them_mirrored() -> None:
    """Turned, zoomed and shifted by little, as other detectors find the face; the same seed is the same views."""
    rng = np.random.default_rng(0)
    views = [random_view(rng) for _ in range(300)]
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(views[0], random_view(rng))
    areas = np.array([np.linalg.det(view[:, :2]) for view in views])
    assert 0.4 < (areas < 0).mean() < 0.6
    assert np.abs(areas).min() > 0.75 and np.abs(areas).max() < 1.35
    middles = np.array([view @ (55.5, 55.5, 1) for view in views])
    assert np.abs(middles.mean(0) - 55.5).max() < 1 and middles.std(0).min() > 0.5 and middles.std(0).max() < 4


@pytest.mark.parametrize("quality", [70, 95])
def test_jpeg_is_jpeg_in_the_right_colours(portrait: np.ndarray, quality: int) -> None:
    """Pictures of any size come back in their colours, a little coarser."""
    picture = portrait[:101, 150:283].astype(np.float32)
    found = through_jpeg(picture + 0.3, quality)
    assert found.shape == picture.shape and found.dtype == np.float32
    assert 0.3 < np.abs(found - picture).mean() < 8
    assert np.abs((found - picture).mean((0, 1))).max() < 2


def test_an_identity_is_told_from_the_middle_of_all_faces(
    portrait: np.ndarray, matrix: np.ndarray, dlib: Guide
) -> None:
    """Dlib's embeddings crowd in one corner; less their mean strangers are at right angles, and a mirror image near."""
    crop = seen_by(portrait.astype(np.float32), matrix)
    own = identity(dlib, crop)
    assert np.linalg.norm(own) == pytest.approx(1, abs=1e-5)
    assert own @ identity(dlib, np.ascontiguousarray(crop[..., ::-1])) > 0.7
    stranger = np.random.default_rng(0).random((3, CROP, CROP), np.float32)
    assert own @ identity(dlib, stranger) < 0.4
