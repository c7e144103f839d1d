"""What views cut out, and the chances of many steps, against the same one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from apf.attack.batched.packing import SIDES, side_of
from apf.attack.batched.sampling import cut_out, neighbours, softening
from apf.attack.batched.views import random_views, taps_of, views_of
from apf.attack.canvas import Canvas, canvas_size
from apf.attack.chances import ViewNoise, random_view
from apf.faces.alignment import cut
from apf.faces.geometry import CROP
from apf.faces.resampling import blurred
from tests.apf.attack.scenes import STANDARD, busy_photo, face_at

#: Where a face is in a photo of 300 by 320: within, small, turned, over an edge, over a corner, larger than the photo.
PLACES = [(160, 150, 120, 0), (90, 80, 30, 0.3), (150, 160, 260, 0.785), (10, 150, 150, -2), (310, 295, 200, 0.3)]


@pytest.mark.parametrize("place", [*PLACES, (160, 150, 700, 0.1)])
@pytest.mark.parametrize("whole", [False, True], ids=["levels", "bytes"])
def test_a_view_is_cut_out_as_a_crop_is(place: tuple[float, ...], whole: bool) -> None:
    """Through maps like those of views, from canvases of any size: averaged down first, its last pixels repeated."""
    canvas, rng = Canvas(busy_photo(300, 320), face_at(*place), STANDARD), np.random.default_rng(1)
    square = np.vstack([canvas.matrix, (0, 0, 1)])
    maps = np.stack([canvas.matrix, *(random_view(rng) @ square for _ in range(3))])
    height, width = canvas.pixels.shape[:2]
    side = side_of((height, width))
    views = torch.from_numpy(views_of(maps, np.array([[width, height]] * len(maps), float)))
    padded = np.pad(canvas.pixels, ((0, side - height), (0, side - width), (0, 0)), mode="edge")
    images = torch.from_numpy(padded.transpose(2, 0, 1).astype(np.float32))[None].expand(len(maps), -1, -1, -1)
    found = cut_out(images, views, whole=whole).numpy().transpose(0, 2, 3, 1)
    for one, matrix in zip(found, maps, strict=True):
        wanted = cut(canvas.pixels if whole else canvas.levels, matrix, unit=1)
        # A byte that lies between two levels may be rounded to either.
        far = np.abs(one - wanted) > 0.02
        assert far.mean() < (0.03 if whole else 1e-9) and np.abs(one - wanted).max() < 1.01


def test_many_views_are_those_of_one_by_one() -> None:
    """Mirrored and not: the same maps as `ViewNoise.view`, up to rounding."""
    rng = np.random.default_rng(0)
    noises = [ViewNoise.drawn(rng) for _ in range(20)]
    assert len({noise.mirrored for noise in noises}) == 2
    np.testing.assert_allclose(random_views(noises), [noise.view for noise in noises], atol=1e-9)


@pytest.mark.parametrize("sigma", [0.0, 0.4, 0.5, 0.8333333333, 1.0, 1.5])
def test_softness_is_that_of_a_blur(sigma: float) -> None:
    """Of each sigma that a view may have, at the edges, too; none leaves the picture as it is."""
    picture = np.random.default_rng(0).standard_normal((CROP, CROP)).astype(np.float32)
    taps = torch.from_numpy(taps_of(np.array([sigma])).astype(np.float32))
    soft = softening(taps, neighbours(taps.shape[1], reflected=False))[0].numpy()
    wanted = blurred(picture, sigma) if sigma else picture
    np.testing.assert_allclose(soft @ picture @ soft.T, wanted, atol=1e-5)


def test_every_canvas_has_a_size() -> None:
    """Of faces of any size, angle and place, the canvas is as large as said before it is made, and fits one of them."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        size = float(np.exp(rng.uniform(np.log(8), np.log(4000))))
        matrix = face_at(rng.uniform(0, 3000), rng.uniform(0, 2000), size, rng.uniform(-4, 4))
        assert side_of(canvas_size(matrix, (2000, 3000, 3))) in SIDES
    photo, matrix = busy_photo(300, 320), face_at(150, 120, 170, 0.4)
    assert Canvas(photo, matrix, STANDARD).pixels.shape[:2] == canvas_size(matrix, photo.shape)
    with pytest.raises(ValueError, match="561 by 20 pixels has no size"):
        side_of((20, 561))
