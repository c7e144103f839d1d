"""The conditions do what their names say, to 8-bit pictures, and leave their shape alone."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from apf.research.evaluate.conditions import CONDITIONS, SOURCES, TITLES, eight_bits
from apf.research.evaluate.metrics import psnr


@pytest.fixture(scope="module")
def pictures(crops: Tensor) -> Tensor:
    return eight_bits(crops[:3])


def test_raw_is_the_face_itself(pictures: Tensor) -> None:
    """Nothing but the rounding to 8 bits happens to a raw face."""
    assert torch.equal(CONDITIONS["raw"](pictures), pictures)


@pytest.mark.parametrize("name", [*CONDITIONS, *SOURCES])
def test_shape_stays(pictures: Tensor, name: str) -> None:
    """Every condition gives as many 8-bit faces of the same size, also none, and has a title."""
    before = pictures.clone()
    change = {**CONDITIONS, **SOURCES}[name]
    changed = change(pictures)
    assert (changed.shape, changed.dtype) == (pictures.shape, torch.uint8)
    assert change(pictures[:0]).shape == (0, 3, 112, 112)
    assert torch.equal(pictures, before)
    assert TITLES[name]


@pytest.mark.parametrize("name", ["jpeg75", "half", "both", "blur"])
def test_the_others_lose_something(pictures: Tensor, name: str) -> None:
    """A photo loses detail under each of the others, and stays recognisably itself."""
    loss = psnr(pictures, CONDITIONS[name](pictures))
    assert loss is not None
    assert 15 < loss < 50


@pytest.mark.parametrize("name", [*CONDITIONS, *SOURCES])
def test_each_face_by_itself(pictures: Tensor, name: str) -> None:
    """A face comes out the same whatever faces are with it."""
    change = {**CONDITIONS, **SOURCES}[name]
    assert torch.equal(change(pictures)[1:2], change(pictures[1:2]))


def test_jpeg_is_of_quality_75(pictures: Tensor) -> None:
    """JPEG 75 agrees with Pillow's own file of that quality."""
    buffer = io.BytesIO()
    Image.fromarray(pictures[0].permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=75)
    expected = np.asarray(Image.open(buffer))
    assert np.array_equal(CONDITIONS["jpeg75"](pictures)[0].permute(1, 2, 0).numpy(), expected)


def test_half_size_forgets_what_is_finer() -> None:
    """Stripes of one pixel turn to grey at half size, and stripes of eight stay."""
    columns = torch.arange(112)
    fine = (255 * (columns % 2)).to(torch.uint8).expand(1, 3, 112, 112)
    coarse = (255 * (columns // 8 % 2)).to(torch.uint8).expand(1, 3, 112, 112)
    assert CONDITIONS["half"](fine).float().std() < 20
    assert CONDITIONS["half"](coarse).float().std() > 100


def test_both_is_jpeg_at_half_size(pictures: Tensor) -> None:
    """Half size with JPEG there differs from half size alone and from JPEG at full size after it."""
    both = CONDITIONS["both"](pictures)
    assert not torch.equal(both, CONDITIONS["half"](pictures))
    assert not torch.equal(both, CONDITIONS["jpeg75"](CONDITIONS["half"](pictures)))


def test_blur_is_one_two_one() -> None:
    """A single white pixel spreads as (1, 2, 1) / 4 in both directions."""
    spot = torch.zeros(1, 3, 112, 112, dtype=torch.uint8)
    spot[:, :, 50, 60] = 160
    expected = torch.tensor([[10, 20, 10], [20, 40, 20], [10, 20, 10]], dtype=torch.uint8)
    blurred = CONDITIONS["blur"](spot)
    assert torch.equal(blurred[0, 1, 49:52, 59:62], expected)
    assert int(blurred.sum()) == 3 * 160


def test_eight_bits_rounds_and_cuts() -> None:
    """Values are rounded to the nearest of 256 levels; those outside [0, 1] become the ends."""
    values = torch.tensor([-0.2, 0.0, 0.499 / 255, 0.501 / 255, 0.9999, 1.3])
    assert eight_bits(values).tolist() == [0, 0, 0, 1, 255, 255]


def test_sources_are_sharper_or_of_more_contrast(pictures: Tensor) -> None:
    """An unsharp mask adds detail, twice the amount adds more, and contrast spreads levels about the same mean."""
    detail = {name: change(pictures).float().diff(dim=3).abs().mean().item() for name, change in SOURCES.items()}
    plain = pictures.float().diff(dim=3).abs().mean().item()
    assert 1.2 * plain < detail["sharp1"] < detail["sharp2"]
    grey = (pictures.float() * 0.4 + 80).round().to(torch.uint8)  # far from black and white
    spread = SOURCES["contrast"](grey).float()
    wide, before = (one.std((1, 2, 3)).tolist() for one in (spread, grey.float()))
    assert wide == pytest.approx([1.3 * one for one in before], rel=0.02)
    assert spread.mean().item() == pytest.approx(grey.float().mean().item(), rel=0.01)
