"""What is seen of protection: colours as eyes blur them, structure, and the warp apart from both."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from apf.attack.perturbation import Change
from apf.research.evaluate.whole_photos.looks import Looks, looks_of
from apf.research.evaluate.whole_photos.scielab import difference, seen_difference

BOX = (180.0, 60.0, 270.0, 180.0)


def moved(picture: np.ndarray, pattern: np.ndarray) -> np.ndarray:
    return (picture.astype(int) + pattern).clip(0, 255).astype(np.uint8)


def checks(cell: int, colour: tuple[int, int, int] = (6, 6, 6)) -> np.ndarray:
    y, x = np.mgrid[:512, :512] // cell
    return (1 - 2 * ((x + y) % 2))[..., None] * np.array(colour)


@pytest.fixture(scope="module")
def plain() -> np.ndarray:
    return np.full((512, 512, 3), 130, np.uint8)


def test_equal_pictures_do_not_differ(portrait: np.ndarray) -> None:
    """A picture differs from itself nowhere, with and without the eye's blur."""
    assert difference(portrait, portrait).max() == 0 and seen_difference(portrait, portrait).max() < 1e-3


def test_an_even_change_is_seen_whole(plain: np.ndarray) -> None:
    """A change of a whole surface is as large after the eye's blur as before."""
    lifted = moved(plain, np.full((512, 512, 3), 8))
    assert seen_difference(plain, lifted).mean() == pytest.approx(difference(plain, lifted).mean(), rel=0.01)


def test_fine_changes_are_seen_less(plain: np.ndarray) -> None:
    """Checks of a pixel all but vanish, those of 16 stay; of the same size, colours vanish before lightness does."""
    fine, coarse = moved(plain, checks(1)), moved(plain, checks(16))
    assert seen_difference(plain, fine).mean() < 0.1 * difference(plain, fine).mean()
    assert seen_difference(plain, coarse).mean() > 0.8 * difference(plain, coarse).mean()
    shares = [
        seen_difference(plain, one).mean() / difference(plain, one).mean()
        for one in (moved(plain, checks(3)), moved(plain, checks(3, (0, 0, 12))))
    ]
    assert shares[1] < 0.8 * shares[0]


def test_grey_changes_have_no_coloured_fringes(plain: np.ndarray) -> None:
    """Grey stripes on grey stay grey: the blur makes them smaller, never larger."""
    for cell in (1, 2, 4, 8):
        striped = moved(plain, checks(cell))
        assert seen_difference(plain, striped).mean() <= difference(plain, striped).mean() + 1e-3, cell


def test_farther_away_less_is_seen(plain: np.ndarray) -> None:
    """More pixels a degree hide the same checks more."""
    checked = moved(plain, checks(3))
    assert seen_difference(plain, checked, 120).mean() < seen_difference(plain, checked, 30).mean()


def test_only_the_face_counts(portrait: np.ndarray) -> None:
    """A change outside the face's box is no part of its looks, but for what an eye blurs into it."""
    outside = portrait.copy()
    outside[300:] = 0
    found = looks_of(portrait, outside, outside, BOX)
    assert found is not None and (found.colour_mean, found.ssim, found.shift_most) == (0, 1, 0)
    inside = portrait.copy()
    inside[60:180, 180:270] = moved(portrait, checks(4))[60:180, 180:270]
    found = looks_of(portrait, inside, inside, BOX)
    assert found is not None and found.colour_mean > 1 and found.colour_95 > found.colour_mean and found.ssim < 0.95


def test_the_warp_is_told_apart(portrait: np.ndarray) -> None:
    """A shift counts in the SSIM with the warp alone, and its own size stands beside it, in percent of the face."""
    shifted = np.roll(portrait, 2, 1)
    change = Change(np.zeros((3, 8, 8), np.float32), np.stack([np.ones((6, 6)), np.zeros((6, 6))]).astype(np.float32))
    found = looks_of(portrait, portrait, shifted, BOX, change, warp=0.008)
    assert found is not None and found.colour_mean == 0 and found.ssim == 1 > found.ssim_warped
    assert found.shift_most == pytest.approx(0.8) and 0.4 < found.shift_mean < 0.8
    still = looks_of(portrait, portrait, shifted, BOX, Change(change.noise), warp=0.008)
    assert still is not None and (still.shift_mean, still.shift_most) == (0, 0)


def test_a_face_beyond_the_edge_or_too_small(portrait: np.ndarray) -> None:
    """Of a face that leaves the photo the part inside is looked at; one of a few pixels has no looks."""
    soft = np.asarray(cv2.GaussianBlur(portrait, (0, 0), 1.5), np.uint8)
    found = looks_of(portrait, soft, soft, (-40.0, -30.0, 60.0, 70.0))
    assert found is not None and found.ssim < 1
    assert looks_of(portrait, soft, soft, (-40.0, -30.0, 5.0, 70.0)) is None


def test_means_over_faces(portrait: np.ndarray) -> None:
    """Each face counts the same; the largest shift stays the largest; nobody has no mean."""
    one = looks_of(portrait, portrait, portrait, BOX)
    assert one is not None
    more = one.model_copy(update={"colour_mean": 3.0, "shift_most": 0.5})
    mean = Looks.mean([one, more])
    assert mean is not None and (mean.colour_mean, mean.shift_most, mean.ssim) == (1.5, 0.5, 1.0)
    assert Looks.mean([]) is None
