"""A face's change on the template: checked, coloured, faded out at the outline, and laid over its canvas."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apf.attack.bound import LUMA, Bound
from apf.attack.canvas import DETAIL, Canvas
from apf.attack.outline import face_mask, rim
from apf.attack.paste import paste
from apf.attack.perturbation import KNOTS, Change, change_of, field_along, in_colour, in_colour_back, shifts, spread
from apf.faces.alignment import ARCFACE_TEMPLATE, CROP, align
from apf.faces.geometry import scale_of
from tests.apf.attack.scenes import STANDARD, busy_photo, face_at

SEEDS = st.integers(0, 2**32 - 1)
NOISE = np.zeros((3, CROP, CROP), np.float32)
FIELD = np.zeros((2, KNOTS, KNOTS), np.float32)


@pytest.mark.parametrize(
    ("noise", "field", "message"),
    [
        (np.zeros((3, CROP, 100), np.float32), None, r"noise must be finite and \(3, n, n\), n at most 112, not"),
        (np.zeros((1, 64, 64), np.float32), None, "noise must be"),
        (np.zeros((3, 113, 113), np.float32), None, r"not \(3, 113, 113\)"),
        (np.zeros((3, 0, 0), np.float32), None, "noise must be"),
        (np.zeros((CROP, CROP), np.float32), None, "noise must be"),
        (np.full((3, 64, 64), np.nan, np.float32), None, "noise must be finite"),
        (NOISE, np.zeros((2, 5, 6), np.float32), r"a field must be finite and \(2, 6, 6\), not \(2, 5, 6\)"),
        (NOISE, np.full_like(FIELD, np.inf), "a field must be finite"),
    ],
    ids=["not square", "grey", "too large", "empty", "flat", "nan", "field's shape", "infinite"],
)
def test_what_is_no_change_is_refused(noise: np.ndarray, field: np.ndarray | None, message: str) -> None:
    """Another shape, or values that are no numbers, are an error and not a damaged photo."""
    with pytest.raises(ValueError, match=message):
        Change(noise, field)


@pytest.mark.parametrize("side", [1, 40, CROP])
def test_a_change_may_be_as_coarse_as_its_face(side: int) -> None:
    """Noise of fewer pixels than the template, with a warp or without."""
    noise = np.ones((3, side, side), np.float32)
    assert Change(noise).field is None
    assert Change(noise, FIELD).field is FIELD


@given(SEEDS, st.floats(0, 1))
def test_colour_is_reduced_and_luma_stays(seed: int, chroma: float) -> None:
    """Of each pixel the luma is kept and its distance from grey is the stated share; nothing leaves [-1, 1]."""
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, (3, 9, 9)).astype(np.float32)
    found = in_colour(noise, chroma)
    luma = np.tensordot(LUMA, noise, 1)
    np.testing.assert_allclose(np.tensordot(LUMA, found, 1), luma, atol=1e-6)
    np.testing.assert_allclose(found - luma, chroma * (noise - luma), atol=1e-6)
    assert np.abs(in_colour(100 * noise, chroma)).max() <= 1


@given(SEEDS, st.floats(0, 1))
def test_gradients_go_back_through_colour(seed: int, chroma: float) -> None:
    """`in_colour_back` is the transpose of `in_colour`: both say the same of any two pictures."""
    random = np.random.default_rng(seed)
    noise, gradient = (random.uniform(-0.3, 0.3, (3, 7, 7)) for _ in range(2))
    forth = (in_colour(noise.astype(np.float32), chroma) * gradient).sum()
    back = (noise * in_colour_back(gradient.astype(np.float32), chroma)).sum()
    assert forth == pytest.approx(back, abs=1e-5)


@pytest.mark.parametrize("side", [9, 40, CROP])
def test_the_mask_is_the_faces_outline(side: int) -> None:
    """Whole in the middle, fading to nothing at the outline and to little at the crop's edge, alike on both sides."""
    mask = face_mask(side)
    assert mask.shape == (side, side) and mask.dtype == np.float32
    assert mask.min() >= 0 and mask.max() == mask[side // 2, side // 2] == 1
    np.testing.assert_allclose(mask, mask[:, ::-1], atol=1e-6)
    assert mask[0, 0] == mask[0, -1] == 0  # background, beside the face
    down = mask[:, side // 2]
    assert (np.diff(down[: side // 2]) >= 0).all() and (np.diff(down[side // 2 :]) <= 0).all()


def test_control_points_spread_smoothly() -> None:
    """Each template pixel is a mean of control points: even fields are even, and inner points peak in their places."""
    knots = spread()
    np.testing.assert_allclose(knots.sum(1), 1, atol=1e-6)
    places = (np.arange(KNOTS) + 0.5) * CROP / KNOTS - 0.5
    assert np.abs(np.argmax(knots, 0) - places)[1:-1].max() < 2


@given(SEEDS, st.sampled_from([0.1, 1.0, 50.0]))
def test_no_shift_is_longer_than_the_largest(seed: int, strength: float) -> None:
    """Whatever the field, also far beyond what is allowed."""
    field = np.random.default_rng(seed).uniform(-strength, strength, (2, KNOTS, KNOTS)).astype(np.float32)
    found = shifts(field)
    assert found.shape == (CROP, CROP, 2) and found.dtype == np.float32
    assert np.sqrt(np.square(found).sum(-1)).max() <= 1 + 1e-6
    assert (found[0] == 0).sum() >= 2 * CROP // 4  # the corners' background stays
    assert (shifts(field * 0) == 0).all()


def test_an_even_field_shifts_along_the_template() -> None:
    """The first of a field's two is x, the second y."""
    right = FIELD.copy()
    right[0] = 0.5
    np.testing.assert_allclose(shifts(right)[60, 56], (0.5, 0), atol=1e-6)
    np.testing.assert_allclose(shifts(right[::-1])[60, 56], (0, 0.5), atol=1e-6)


@pytest.mark.parametrize("size", [20, 112, 336, 900])
def test_a_canvas_is_the_photo_around_the_face(size: int) -> None:
    """Of a large face it has fewer pixels, and the face that is cut out of it is the one cut out of the photo."""
    photo, matrix = busy_photo(700, 800), face_at(410, 360, size, 0.4)
    canvas = Canvas(photo, matrix, STANDARD)
    assert 1 / scale_of(canvas.matrix) == pytest.approx(min(DETAIL, size / CROP), rel=0.01)
    assert canvas.pixels.shape[:2] == canvas.bound.shape == canvas.rect[3:1:-1]
    np.testing.assert_allclose(canvas.matrix, matrix @ canvas.to_photo)
    off = np.abs(align(canvas.pixels, canvas.matrix) - align(photo, matrix))
    assert off.mean() < 0.01 if size > 336 else off.max() < 2 / 255
    bound = canvas.template_bound()
    assert bound.shape == (CROP, CROP) and (bound[face_mask(CROP) == 0] == 0).all()
    assert 0 < bound.max() <= STANDARD.most


def test_a_canvas_beyond_the_photo() -> None:
    """A face beside the photo, or over its edge, has the nearest pixels for a canvas."""
    for x, y in ((-300, 40), (5, 5), (90, 500)):
        canvas = Canvas(busy_photo(80, 100), face_at(x, y, 90), STANDARD)
        assert min(canvas.bound.shape) >= 1 and np.isfinite(canvas.template_bound()).all()


def test_the_rim_is_around_the_features() -> None:
    """Eyes, brows, nose and mouth are within; temples, jaw and the hair beside them are the rim, in any photo."""
    matrix = np.array([[0.5, 0, 3], [0, 0.5, -4]])
    found = rim(matrix, 240, 240)

    def at(x: float, y: float) -> float:
        return float(found[round((y + 4) / 0.5), round((x - 3) / 0.5)])

    features = [*ARCFACE_TEMPLATE, (38, 42), (74, 42), (30, 44), (82, 44)]
    assert max(at(x, y) for x, y in features) == 0
    assert min(at(x, y) for x, y in [(10, 60), (100, 60), (55, 8), (15, 95), (95, 95)]) == 1


@given(SEEDS)
def test_a_field_leads_along_the_momentum(seed: int) -> None:
    """Warped by it a face moves along the momentum; by its opposite, against it; the momentum's size does not count."""
    photo = busy_photo(CROP, CROP)
    face = np.ascontiguousarray(photo.transpose(2, 0, 1).astype(np.float32) / 255)
    momentum = cv2.GaussianBlur(np.random.default_rng(seed).standard_normal((CROP, CROP, 3)), (0, 0), 4)
    momentum = np.ascontiguousarray(momentum.transpose(2, 0, 1), np.float32)
    field = field_along(momentum, face)
    np.testing.assert_allclose(field_along(100 * momentum, face), field, atol=1e-4)
    allowed, eye = Bound(8, 1, 0.006), np.eye(2, 3)

    def moved(field: np.ndarray) -> float:
        out = paste(photo, [Change(NOISE, field)], [eye], allowed)
        return float(((out.astype(np.float32) - photo).transpose(2, 0, 1) * momentum).sum())

    assert moved(field) > 0 > moved(-field)


def test_a_change_of_an_answer() -> None:
    """Its noise is in units of epsilon; without a momentum it has no warp."""
    delta = np.full((3, CROP, CROP), 4 / 255, np.float32)
    face = np.random.default_rng(0).random((3, CROP, CROP), np.float32)
    plain, led = change_of(delta, 8 / 255), change_of(delta, 8 / 255, face, face)
    assert plain.field is None and np.allclose(plain.noise, 0.5) and np.array_equal(plain.noise, led.noise)
    np.testing.assert_array_equal(led.field, field_along(face, face))
