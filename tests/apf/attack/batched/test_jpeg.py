"""JPEG by torch against libjpeg."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from apf.attack.batched.jpeg import Jpeg
from apf.attack.gradient_steps import through_jpeg

SIDE = 160
#: Heights and widths: a whole square, one pixel, odd and even, less than a block.
SIZES = [(160, 160), (1, 1), (111, 45), (84, 116), (7, 127), (136, 5), (16, 15), (145, 144)]


@pytest.fixture(scope="module")
def pictures(portrait: np.ndarray) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    found = []
    for height, width in SIZES:
        top, left = random.integers(0, 512 - SIDE, 2)
        cut = portrait[top : top + height, left : left + width]
        found.append((cut + random.normal(0, 9, cut.shape)).clip(0, 255).astype(np.float32))
    return found


@pytest.mark.parametrize("quality", [30, 50, 70, 85, 95, 100])
def test_it_is_libjpegs_to_the_bit(pictures: list[np.ndarray], quality: int) -> None:
    """Of pictures of all sizes in one batch, whose last pixels repeat beyond their own size."""
    padded = [np.pad(one, ((0, SIDE - len(one)), (0, SIDE - one.shape[1]), (0, 0)), mode="edge") for one in pictures]
    images = torch.from_numpy(np.stack(padded).transpose(0, 3, 1, 2).copy())
    height, width = (torch.tensor([one.shape[axis] for one in pictures]) for axis in (0, 1))
    found = Jpeg()(images, torch.full_like(height, quality), height, width).numpy()
    for one, own in zip(found, pictures, strict=True):
        wanted = through_jpeg(own, quality)
        np.testing.assert_array_equal(one.transpose(1, 2, 0)[: len(own), : own.shape[1]], wanted)


def test_each_picture_has_its_own_quality(pictures: list[np.ndarray]) -> None:
    """Two copies of one picture come back as those of their qualities."""
    (one,) = pictures[:1]
    images = torch.from_numpy(np.stack([one] * 2).transpose(0, 3, 1, 2).copy())
    size = torch.tensor([SIDE, SIDE])
    found = Jpeg()(images, torch.tensor([70, 95]), size, size).numpy()
    for picture, quality in zip(found, (70, 95), strict=True):
        np.testing.assert_array_equal(picture.transpose(1, 2, 0), through_jpeg(one, quality))
