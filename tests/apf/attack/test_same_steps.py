"""What a step spares itself changes nothing: each short cut gives what the long way gives, to the bit."""

from __future__ import annotations

import threading
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from apf.attack import canvas, gradient_steps, perturbation
from apf.attack.bound import Bound
from apf.attack.canvas import Canvas
from apf.attack.gradient_steps import climb, rendered, start_climb, through_jpeg
from apf.attack.outline import WARP_FEATHER, face_mask
from apf.attack.perturbation import Change, Drawing, spread
from apf.faces.geometry import CROP, square_depth, zoom
from apf.faces.resampling import remap_cubic, warp_affine
from apf.guides import Guide
from apf.runtime import cores
from tests.apf.attack.scenes import STANDARD, busy_photo, change, face_at

#: Where a face is in a photo of 300 by 320: within, turned, over an edge, over a corner and larger than the canvas.
PLACES = [(160, 150, 120, 0.0), (150, 160, 90, 0.7), (10, 150, 150, -2.0), (310, 295, 200, 0.3), (160, 150, 700, 0.1)]


def the_long_way(canvas: Canvas, one: Change, allowed: Bound, *, grey: bool) -> np.ndarray:
    """All pixels of the canvas drawn, those that the change cannot reach too."""
    drawing, (_, _, width, height) = Drawing(one, canvas, allowed, grey=grey), canvas.rect

    def drawn(image: np.ndarray) -> np.ndarray:
        factor = CROP / len(image)
        to_image = np.linalg.inv(zoom(factor, factor))[:2] @ np.vstack([canvas.matrix, (0, 0, 1)])
        found = warp_affine(image, to_image, width, height)
        found[square_depth(canvas.matrix, canvas.rect) <= 0] = 0
        return found

    image = canvas.pixels.astype(np.float32)
    if drawing._shift is not None:
        x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        shift = drawn(drawing._shift)
        image = np.clip(remap_cubic(canvas.pixels, x + shift[..., 0], y + shift[..., 1]), 0, 255)
    return np.clip(image + drawn(drawing._noise) * canvas.bound[..., None], 0, 255)


@pytest.mark.parametrize("grey", [False, True], ids=["colour", "grey"])
@pytest.mark.parametrize("place", PLACES)
def test_the_face_alone_is_drawn_as_the_whole_canvas(place: tuple[float, ...], grey: bool) -> None:
    """Beyond the crop's square nothing moves, so that a step that leaves it out sees the same picture."""
    canvas = Canvas(busy_photo(300, 320), face_at(*place), STANDARD)
    for one in (change(1), change(2, field=False, side=40)):
        wanted = the_long_way(canvas, one, STANDARD, grey=grey)
        np.testing.assert_array_equal(rendered(canvas, one, STANDARD, grey=grey), wanted)
    assert (wanted != canvas.pixels).any()


def test_the_canvas_is_left_as_it_is() -> None:
    """What is kept for the next step is not drawn into."""
    canvas = Canvas(busy_photo(300, 320), face_at(160, 150, 120), STANDARD)
    first = rendered(canvas, change(1), STANDARD)
    rendered(canvas, change(2), STANDARD)
    np.testing.assert_array_equal(canvas.levels, canvas.pixels)
    np.testing.assert_array_equal(rendered(canvas, change(1), STANDARD), first)


@pytest.mark.parametrize("quality", [70, 85, 95])
def test_jpeg_takes_the_channels_as_before(quality: int) -> None:
    """By OpenCV's exchange of channels as by NumPy's."""
    image = busy_photo(90, 83).astype(np.float32) + np.float32(0.3)
    turned = np.rint(image).astype(np.uint8)[..., ::-1]
    coded = cv2.imencode(".jpg", turned, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    wanted = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.float32)[..., ::-1]
    np.testing.assert_array_equal(through_jpeg(image, quality), wanted)


def test_the_gradients_are_those_of_sums_over_channels() -> None:
    """Of noise and of field, when a view's gradient comes back."""
    random = np.random.default_rng(3)
    face = start_climb(busy_photo(160, 160), face_at(80, 80, 120), [], STANDARD)
    gradient = random.standard_normal((CROP, CROP, 3)).astype(np.float32)
    face.latents[1] = random.uniform(-2, 2, face.latents[1].shape).astype(np.float32)
    mask, knots = face_mask(CROP, WARP_FEATHER), spread()
    by_shift = np.stack([(gradient * slope).sum(-1) * mask for slope in face.slopes])
    drawn = np.stack([knots @ one @ knots.T for one in face.latents[1]])
    length = np.maximum(np.sqrt((drawn * drawn).sum(0)), gradient_steps.TINY)
    along = (by_shift * drawn).sum(0) / length**2 * drawn
    by_drawn = np.where(length > 1, (by_shift - along) / length, by_shift)
    wanted = np.stack([knots.T @ one @ knots for one in by_drawn]).astype(np.float32)
    np.testing.assert_array_equal(gradient_steps._by_field(face, gradient), wanted)
    by_noise = gradient.transpose(2, 0, 1) * face.bound
    wanted = perturbation.in_colour_back(by_noise, STANDARD.chroma)
    np.testing.assert_array_equal(gradient_steps._by_noise(face, gradient), wanted)


def test_what_no_step_changes_is_found_once(
    monkeypatch: pytest.MonkeyPatch, portrait: np.ndarray, matrix: np.ndarray, probe: Guide
) -> None:
    """However many steps there are, where the crop's square lies in the canvas is asked once."""
    asked: list[int] = []

    def counted(found: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        return lambda *given: (asked.append(1), found(*given))[1]

    face = start_climb(portrait, matrix, [probe], STANDARD)
    monkeypatch.setattr(canvas, "square_depth", counted(canvas.square_depth))
    climb(face, [probe], 3)
    assert len(asked) == 1


def test_the_guides_of_a_single_face_have_a_core_each(
    monkeypatch: pytest.MonkeyPatch, portrait: np.ndarray, matrix: np.ndarray, probe: Guide
) -> None:
    """Two guides climb at once where a face is alone, and in turn on one core: the change is the same to the bit."""

    class Met:
        """The probe, which waits for another before it climbs."""

        centre, threshold, embed = probe.centre, probe.threshold, staticmethod(probe.embed)

        def __init__(self, together: threading.Barrier) -> None:
            self.together = together

        def climb(self, crops: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            self.together.wait()
            return probe.climb(crops, reference)

    found = []
    for count in (2, 1):
        monkeypatch.setattr(cores, "_share", [count])
        cores._pool.cache_clear()
        barrier = threading.Barrier(count, timeout=20)
        guides: list[Guide] = [Met(barrier), Met(barrier)]  # type: ignore[list-item]
        face = start_climb(portrait, matrix, guides, STANDARD)
        climb(face, guides, 2)
        found.append(face.change)
    cores._pool.cache_clear()
    np.testing.assert_array_equal(found[0].noise, found[1].noise)
    np.testing.assert_array_equal(found[0].field, found[1].field)
