"""Alignment against scikit-image, and what `paste` promises for any face in any photo."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.transform import SimilarityTransform

from apf.faces import ARCFACE_TEMPLATE, CROP, Face, align, alignment, face_from, footprint, paste

EPSILON = 8


def face_at(x: float, y: float, size: float, angle: float = 0.0) -> np.ndarray:
    """The matrix of a face whose crop is `size` photo pixels wide, around (x, y)."""
    points = (ARCFACE_TEMPLATE - (CROP - 1) / 2) @ (1, 1j) * (size / CROP) * np.exp(1j * angle) + (x + 1j * y)
    return alignment(np.stack([points.real, points.imag], axis=1))


def smooth_photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A photo away from black and white, so that nothing is clipped."""
    small = np.random.default_rng(seed).integers(
        60, 195, (max(2, height // 16), max(2, width // 16), 3), dtype=np.uint8
    )
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def smooth_delta(seed: int, strength: float = EPSILON / 255) -> np.ndarray:
    small = np.random.default_rng(seed).uniform(-1, 1, (14, 14, 3)).astype(np.float32)
    return cv2.resize(small, (CROP, CROP)).transpose(2, 0, 1) * np.float32(strength)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """A noise photo with up to four faces, of any size and angle, overlapping, over the edge or outside."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height, width = draw(st.integers(1, 400)), draw(st.integers(1, 400))
    photo = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    count = draw(st.integers(0, 4))
    size = st.floats(3, 600)
    matrices = [
        face_at(random.uniform(-50, width + 50), random.uniform(-50, height + 50), draw(size), random.uniform(-4, 4))
        for _ in range(count)
    ]
    strength = draw(st.sampled_from([EPSILON / 255, 1.0]))
    deltas = [random.uniform(-strength, strength, (3, CROP, CROP)).astype(np.float32) for _ in range(count)]
    return photo, deltas, matrices


def moved(photo: np.ndarray, out: np.ndarray) -> np.ndarray:
    return np.abs(out.astype(int) - photo.astype(int))


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


@settings(deadline=None, max_examples=200)
@given(scenes(), st.booleans())
def test_paste_keeps_the_bound_and_leaves_the_rest(scene: tuple, grey: bool) -> None:
    """No pixel moves by more than epsilon, none outside the footprints moves at all, and the input stays."""
    photo, deltas, matrices = scene
    before = photo.copy()
    out = paste(photo, deltas, matrices, epsilon_levels=EPSILON, grey=grey)
    assert out.dtype == np.uint8 and out.shape == photo.shape and not np.shares_memory(out, photo)
    assert moved(photo, out).max() <= EPSILON
    inside = np.zeros(photo.shape[:2], bool)
    for matrix in matrices:
        inside |= footprint(matrix, photo.shape)
    assert (out[~inside] == photo[~inside]).all()
    assert (photo == before).all()


@settings(deadline=None, max_examples=60)
@given(scenes(), st.randoms(use_true_random=False))
def test_the_order_of_faces_does_not_matter(scene: tuple, random) -> None:
    """Faces in another order give the same photo, bit for bit."""
    photo, deltas, matrices = scene
    order = list(range(len(deltas)))
    random.shuffle(order)
    first = paste(photo, deltas, matrices, epsilon_levels=EPSILON, grey=False)
    again = paste(photo, [deltas[i] for i in order], [matrices[i] for i in order], epsilon_levels=EPSILON, grey=False)
    assert (first == again).all()


@settings(deadline=None, max_examples=60)
@given(scenes())
def test_a_grey_photo_stays_grey(scene: tuple) -> None:
    """With grey=True the three channels of a grey photo stay equal."""
    photo, deltas, matrices = scene
    photo = np.repeat(photo[..., :1], 3, axis=2)
    out = paste(photo, deltas, matrices, epsilon_levels=EPSILON, grey=True)
    assert (out == out[..., :1]).all()


@settings(deadline=None, max_examples=30)
@given(scenes())
def test_no_perturbation_changes_nothing(scene: tuple) -> None:
    """A perturbation of zero gives the photo back, bit for bit."""
    photo, deltas, matrices = scene
    assert (paste(photo, [d * 0 for d in deltas], matrices, epsilon_levels=EPSILON, grey=False) == photo).all()


@settings(deadline=None, max_examples=25)
@given(st.floats(80, 800), st.floats(-4, 4), st.integers(0, 1000))
def test_the_pasted_photo_aligns_to_the_perturbed_face(size: float, angle: float, seed: int) -> None:
    """Aligning the protected photo gives the face plus its perturbation, whatever the face's size in the photo."""
    photo, delta = smooth_photo(900, 900), smooth_delta(seed)
    matrix = face_at(450, 450, size, angle)
    out = paste(photo, [delta], [matrix], epsilon_levels=EPSILON, grey=False)
    change = align(out, matrix) - align(photo, matrix)
    middle = np.s_[:, 8:-8, 8:-8]  # within the feather
    assert np.corrcoef(change[middle].ravel(), delta[middle].ravel())[0, 1] > 0.9


@pytest.mark.parametrize("size", [130.0, 300.0, 2000.0])
def test_the_cut_out_face_keeps_its_perturbation(monkeypatch: pytest.MonkeyPatch, size: float) -> None:
    """Pasting and cutting out average neighbours; correction gives back much of it, within the bound."""
    random = np.random.default_rng(0)
    small = random.uniform(-0.7, 0.7, (CROP // 2, CROP // 2, 3)).astype(np.float32)
    delta = cv2.resize(small, (CROP, CROP)).transpose(2, 0, 1) * np.float32(EPSILON / 255)
    side = round(size * 1.5)
    photo, matrix = smooth_photo(side, side), face_at(side / 2 + 0.3, side / 2, size, 0.1)
    inside = np.s_[:, 8:-8, 8:-8]

    def kept(corrections: int) -> float:
        monkeypatch.setattr("apf.faces.CORRECTIONS", corrections)
        out = paste(photo, [delta], [matrix], epsilon_levels=EPSILON, grey=False)
        assert moved(photo, out).max() <= EPSILON
        found = (align(out, matrix) - align(photo, matrix))[inside]
        return float((found * delta[inside]).sum() / np.square(delta[inside]).sum())

    assert kept(0) < 0.92
    assert kept(2) > kept(0) + 0.5 * (1 - kept(0))


def test_full_strength_inside_the_feather() -> None:
    """Only the crop's outer few per cent are weakened; a constant perturbation arrives whole everywhere else."""
    photo = np.full((300, 300, 3), 128, np.uint8)
    matrix = face_at(150, 150, CROP)
    delta = np.full((3, CROP, CROP), EPSILON / 255, np.float32)
    change = moved(photo, paste(photo, [delta], [matrix], epsilon_levels=EPSILON, grey=False))
    assert (change == EPSILON).all(axis=2).sum() >= (CROP - 8) ** 2


@pytest.mark.parametrize("size", [10, 4000])
def test_tiny_and_enormous_faces(size: int) -> None:
    """A face of ten pixels and one larger than the photo are both changed, within the bound."""
    photo = smooth_photo(552, 700)
    matrix = face_at(350, 270, size, 0.3)
    change = moved(photo, paste(photo, [smooth_delta(1)], [matrix], epsilon_levels=EPSILON, grey=False))
    assert 0 < change.max() <= EPSILON


def test_in_place_is_the_same_without_a_copy() -> None:
    """The photo itself is changed to what a copy would be; one that cannot be written to is copied."""
    photo, matrix = smooth_photo(300, 400), face_at(200, 150, 120, 0.2)
    wanted = paste(photo, [smooth_delta(2)], [matrix], epsilon_levels=EPSILON, grey=False)
    fixed, open_ = photo.copy(), photo.copy()
    fixed.flags.writeable = False
    found = paste(open_, [smooth_delta(2)], [matrix], epsilon_levels=EPSILON, grey=False, in_place=True)
    assert found is open_
    assert (found == wanted).all() and (wanted != photo).any()
    assert (
        paste(fixed, [smooth_delta(2)], [matrix], epsilon_levels=EPSILON, grey=False, in_place=True) == wanted
    ).all()
    assert (fixed == photo).all()


def test_a_band_leaves_no_seam() -> None:
    """A face taller than the rows pasted at a time has no step where two bands meet."""
    photo = np.full((768, 800, 3), 128, np.uint8)
    delta = np.full((3, CROP, CROP), EPSILON / 255, np.float32)
    change = moved(photo, paste(photo, [delta], [face_at(400, 380, 700)], epsilon_levels=EPSILON, grey=False))
    assert (change[100:660, 200:600] == EPSILON).all()


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


@pytest.mark.parametrize(
    "delta",
    [np.zeros((3, 64, 64), np.float32), np.full((3, CROP, CROP), np.nan, np.float32)],
    ids=["shape", "nan"],
)
def test_paste_refuses_a_bad_delta(delta: np.ndarray) -> None:
    """A delta of another shape, or not finite, is an error and not a damaged photo."""
    with pytest.raises(ValueError, match="finite and"):
        paste(smooth_photo(90, 90), [delta], [face_at(45, 45, 60)], epsilon_levels=EPSILON, grey=False)


def test_paste_wants_a_matrix_for_each_delta() -> None:
    """A face without its matrix is an error."""
    with pytest.raises(ValueError, match="1 deltas for 0"):
        paste(smooth_photo(90, 90), [smooth_delta(0)], [], epsilon_levels=EPSILON, grey=False)


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
