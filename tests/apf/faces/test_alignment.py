"""Alignment against scikit-image, and faces from detections."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.transform import SimilarityTransform

from apf.faces.alignment import ARCFACE_TEMPLATE, CROP, Face, align, alignment, face_from, footprint
from tests.apf.attack.scenes import face_at, smooth_photo


@given(st.integers(0, 2**32 - 1))
def test_alignment_agrees_with_scikit_image(seed: int) -> None:
    """Our closed form is the least-squares similarity that scikit-image finds by SVD."""
    random = np.random.default_rng(seed)
    matrix = face_at(*random.uniform(0, 4000, 2), random.uniform(10, 3000), random.uniform(-4, 4))
    back = np.linalg.inv(np.vstack([matrix, (0, 0, 1)]))
    noisy = ARCFACE_TEMPLATE + random.normal(0, 4, (5, 2))
    landmarks = noisy @ back[:2, :2].T + back[:2, 2]
    oracle = SimilarityTransform.from_estimate(landmarks, ARCFACE_TEMPLATE).params[:2]
    np.testing.assert_allclose(alignment(landmarks), oracle, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("landmarks", "reason"),
    [
        ([(5.0, 5.0)] * 5, "one place"),
        ([(float("nan"), 1.0)] * 5, "finite"),
        ([(1.0, 2.0)] * 4, "five"),
        (ARCFACE_TEMPLATE * (-1, 1), "no face"),
    ],
    ids=["one point", "nan", "four", "mirrored"],
)
def test_alignment_refuses_what_is_no_face(landmarks: list, reason: str) -> None:
    """Landmarks that no similarity can place are refused with the reason."""
    with pytest.raises(ValueError, match=reason):
        alignment(landmarks)


def test_align_averages_a_large_face() -> None:
    """Fine stripes on a large face come out as their mean, where plain sampling would alias them."""
    photo = np.zeros((1200, 1200, 3), np.uint8)
    photo[:, ::2] = 255
    crop = align(photo, face_at(600, 600, 1000, 0.0))
    assert crop.shape == (3, CROP, CROP) and crop.dtype == np.float32
    assert np.abs(crop - 0.5).max() < 0.1


def test_align_repeats_the_edge() -> None:
    """A crop that reaches beyond the photo, or lies outside it, is filled with the nearest pixels."""
    photo = np.full((50, 60, 3), (255, 51, 0), np.uint8)
    for x, y in [(0, 0), (59, 49), (-500, 900)]:
        np.testing.assert_allclose(align(photo, face_at(x, y, 90)).mean(axis=(1, 2)), (1, 0.2, 0), atol=1e-5)


def test_align_at_scale_one_is_a_cut() -> None:
    """A face that lies in the photo exactly as in the template is cut out as it is."""
    photo = smooth_photo(200, 200)
    crop = align(photo, np.array([[1.0, 0, -20], [0, 1, -30]]))
    np.testing.assert_allclose(crop.transpose(1, 2, 0) * 255, photo[30 : 30 + CROP, 20 : 20 + CROP], atol=1e-3)


BOX = (100.0, 50.0, 183.0, 157.0)


def test_good_landmarks_are_kept() -> None:
    """Landmarks that fit their box go into the face as they are."""
    landmarks = ARCFACE_TEMPLATE + np.array([85, 39])
    face = face_from(BOX, landmarks, 0.9)
    assert not face.guessed and np.allclose(face.landmarks, landmarks)


@pytest.mark.parametrize(
    "landmarks",
    [np.zeros((5, 2)), np.full((5, 2), np.nan), ARCFACE_TEMPLATE + 1000, ARCFACE_TEMPLATE / 40 + (140, 100)],
    ids=["one point", "nan", "elsewhere", "far too small"],
)
def test_a_face_with_useless_landmarks_is_still_protected(landmarks: np.ndarray) -> None:
    """Where landmarks fail, the template laid into the box takes their place, and the face says so."""
    face = face_from(BOX, landmarks, 0.9)
    assert isinstance(face, Face) and face.guessed
    covered = footprint(alignment(face.landmarks), (400, 400))
    assert covered[60:150, 110:175].all()


def test_an_empty_box_is_refused() -> None:
    """A box without area is no face."""
    with pytest.raises(ValueError, match="empty"):
        face_from((5, 5, 5, 9), ARCFACE_TEMPLATE, 0.9)
