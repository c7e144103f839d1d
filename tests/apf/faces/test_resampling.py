"""The imaging of faces: NumPy does what OpenCV does, and both do what is written."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from apf.attack.bound import Bound
from apf.attack.paste import paste
from apf.attack.perturbation import Change
from apf.faces import resampling
from apf.faces.alignment import align
from apf.faces.resampling import (
    blurred,
    blurred_numpy,
    reduce_area,
    reduce_area_numpy,
    remap_cubic,
    warp_affine,
    warp_affine_numpy,
)

SIDES = st.integers(1, 40)
SEEDS = st.integers(0, 2**32 - 1)
COLOURS = st.sampled_from([1, 3])


@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), COLOURS, SEEDS)
@example((1, 1), (5, 7), 3, 0)
@example((1, 30), (1, 1), 1, 1)
def test_both_warp_alike(source: tuple[int, int], size: tuple[int, int], colours: int, seed: int) -> None:
    """Turned, sheared, zoomed and shifted far beyond the edges, NumPy shows what OpenCV shows, to a rounding error."""
    random = np.random.default_rng(seed)
    image = random.random((*source, colours), np.float32)
    to_image = random.uniform(-3, 3, (2, 3))
    to_image[:, 2] = random.uniform(-60, 60, 2)
    found = warp_affine_numpy(image, to_image, *size)
    assert found.shape == (size[1], size[0], colours) and found.dtype == np.float32
    np.testing.assert_allclose(found, warp_affine(image, to_image, *size), atol=3e-5)


def test_a_warp_shows_pixels_where_they_are() -> None:
    """A shift by whole pixels copies them, by half a pixel averages two; beyond the edge the last pixel is repeated."""
    image = np.arange(4, dtype=np.float32).reshape(1, 4, 1)
    for shift, expected in ((1, [1, 2, 3, 3]), (-2, [0, 0, 0, 1]), (0.5, [0.5, 1.5, 2.5, 3])):
        to_image = np.array([[1.0, 0, shift], [0, 1, 0]])
        for warp in (warp_affine, warp_affine_numpy):
            assert warp(image, to_image, 4, 1).ravel().tolist() == pytest.approx(expected)


@given(SIDES, SIDES, st.integers(0, 40), st.integers(0, 40), COLOURS, SEEDS)
def test_both_reduce_floats_alike(height: int, width: int, more: int, wider: int, colours: int, seed: int) -> None:
    """Any reduction of float32, also by no whole factor or of one side alone, is OpenCV's to a rounding error."""
    image = np.random.default_rng(seed).random((height + more, width + wider, colours), np.float32)
    np.testing.assert_allclose(reduce_area_numpy(image, width, height), reduce_area(image, width, height), atol=1e-6)


@given(SIDES, SIDES, st.integers(0, 40), st.integers(0, 40), COLOURS, SEEDS)
def test_both_reduce_bytes_alike(height: int, width: int, more: int, wider: int, colours: int, seed: int) -> None:
    """Reductions of uint8 differ from OpenCV's by one level at most, and only where the average is a half exactly."""
    image = np.random.default_rng(seed).integers(0, 256, (height + more, width + wider, colours), np.uint8)
    found, expected = (reduce(image, width, height).astype(int) for reduce in (reduce_area_numpy, reduce_area))
    average = reduce_area_numpy(image.astype(np.float32), width, height)
    tie = np.abs(average - np.floor(average) - 0.5) < 1e-3
    assert np.abs(found - expected).max() <= 1
    assert (found == expected)[~tie].all()


@given(SIDES, SIDES, COLOURS, SEEDS)
@example(1, 1, 1, 0)
def test_both_halve_bytes_to_the_level(height: int, width: int, colours: int, seed: int) -> None:
    """Two by two pixels to one, the common case of large photos, is the same to the level, halves rounded up."""
    image = np.random.default_rng(seed).integers(0, 4, (2 * height, 2 * width, colours), np.uint8)  # full of halves
    found = reduce_area_numpy(image, width, height)
    sums = image.reshape(height, 2, width, 2, colours).sum((1, 3))
    np.testing.assert_array_equal(found, (sums + 2) // 4)
    np.testing.assert_array_equal(found, reduce_area(image, width, height))


def test_bands_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy's results do not depend on the bands of rows that it works in."""
    random = np.random.default_rng(0)
    image = random.random((50, 31, 3), np.float32)
    to_image = np.array([[0.9, 0.2, -3], [-0.1, 1.1, 2]])
    whole = warp_affine_numpy(image, to_image, 40, 33), reduce_area_numpy(image, 17, 23)
    monkeypatch.setattr(resampling, "BAND_ROWS", 4)
    np.testing.assert_array_equal(warp_affine_numpy(image, to_image, 40, 33), whole[0])
    np.testing.assert_array_equal(reduce_area_numpy(image, 17, 23), whole[1])


@given(SIDES, SIDES, st.floats(0.3, 9), SEEDS)
def test_both_blur_alike(height: int, width: int, sigma: float, seed: int) -> None:
    """By any width, also a wider one than the picture, NumPy's Gaussian is OpenCV's to a rounding error."""
    image = np.random.default_rng(seed).random((height, width), np.float32)
    found = blurred_numpy(image, sigma, max(1, round(3 * sigma)))
    assert found.shape == image.shape and found.dtype == np.float32
    np.testing.assert_allclose(found, blurred(image, sigma), atol=2e-6)


def test_cubic_sampling_shows_pixels_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole places give the pixels themselves, places beyond the edge the last ones; only OpenCV does it."""
    image = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    y, x = np.mgrid[-3:10, -3:12].astype(np.float32)
    wanted = image[np.clip(y, 0, 6).astype(int), np.clip(x, 0, 8).astype(int)]
    np.testing.assert_allclose(remap_cubic(image, x, y), wanted, atol=1e-3)
    monkeypatch.setattr(resampling, "cv2", None)
    with pytest.raises(RuntimeError, match="install opencv-python-headless"):
        remap_cubic(image, x, y)


@pytest.mark.parametrize("scale", [0.2, 0.43, 1.3], ids=["reduced", "larger", "smaller"])
def test_faces_are_cut_and_pasted_alike_without_opencv(
    monkeypatch: pytest.MonkeyPatch, portrait: np.ndarray, scale: float
) -> None:
    """A face is cut out and changed within the same bound where OpenCV is missing, but for one level here and there.

    Faces are larger than the crop, so that they are reduced as well as warped, and one is smaller.
    """
    matrix = np.array([[scale, 0.05, 56 - 220 * scale], [-0.05, scale, 65 - 110 * scale]])
    noise = np.random.default_rng(0).uniform(-1, 1, (3, 112, 112)).astype(np.float32)
    allowed = Bound(epsilon=8, chroma=0.45, warp=0.008)

    def both() -> tuple[np.ndarray, np.ndarray]:
        return align(portrait, matrix), paste(portrait, [Change(noise)], [matrix], allowed)

    assert resampling.cv2 is cv2
    crop, pasted = both()
    monkeypatch.setattr(resampling, "cv2", None)
    own_crop, own_pasted = both()
    assert (pasted != portrait).any()
    assert np.abs(own_crop - crop).max() <= 1.01 / 255
    off = np.abs(own_pasted.astype(int) - pasted)
    assert off.max() <= 1 and (off > 0).mean() < 2e-3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_both_turn_alike(orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Pillow turns a picture of that EXIF orientation; the result is contiguous, whatever does it."""
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # PIL.Image.Transpose
    picture = np.random.default_rng(orientation).integers(0, 256, (5, 9, 3), np.uint8)
    wanted = Image.fromarray(picture)
    if orientation in turns:
        wanted = wanted.transpose(Image.Transpose(turns[orientation]))
    for library in (cv2, None):
        monkeypatch.setattr(resampling, "cv2", library)
        found = resampling.turned(picture, orientation)
        np.testing.assert_array_equal(found, np.asarray(wanted))
        assert found.flags.c_contiguous
        np.testing.assert_array_equal(resampling.turned(picture[..., 0], orientation), np.asarray(wanted)[..., 0])
