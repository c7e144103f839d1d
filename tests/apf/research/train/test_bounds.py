"""The bound and the warp in training: those of the product, for a batch and with gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from apf.attack import outline, perturbation
from apf.attack.bound import Bound, bound_map
from apf.faces.resampling import remap_cubic
from apf.research.train.bounds import Attacked, bounds, drawn, field_along, in_colour, warped
from apf.research.train.whole_photo import Place, averaged

ALLOWED = Bound(epsilon=10, chroma=0.3, warp=0.006)


@pytest.fixture(scope="module")
def faces() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand((2, 3, 14, 14), generator=generator)
    grain = 0.05 * torch.randn((2, 3, 112, 112), generator=generator)
    return (torch.nn.functional.interpolate(coarse, (112, 112), mode="bicubic") * 0.6 + 0.2 + grain).clamp(0, 1)


@pytest.fixture(scope="module")
def momentum() -> torch.Tensor:
    return torch.randn((2, 3, 112, 112), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("chroma", [0.0, 0.3, 1.0])
def test_colour_is_the_products(momentum: torch.Tensor, chroma: float) -> None:
    """A share of the colour is left, within the bound."""
    found = in_colour(momentum, chroma)
    for one, noise in zip(found, momentum, strict=True):
        np.testing.assert_allclose(one.numpy(), perturbation.in_colour(noise.numpy(), chroma), atol=1e-6)


@pytest.mark.parametrize("side", [56, 90, 112])
def test_the_bound_is_the_products(faces: torch.Tensor, side: int) -> None:
    """In whole levels, for a face of that size and turn in its photo."""
    turned = torch.tensor([[0.995, -0.0998, 0.012], [0.0998, 0.995, -0.007]]).expand(2, 2, 3)
    place = Place(turned, side)
    photos = place.drawn(faces)
    found = bounds(photos, ALLOWED, place.to_template)
    half, theta = 56.0, turned[0].double().numpy()
    to_unit = np.array([[2 / side, 0, 1 / side - 1], [0, 2 / side, 1 / side - 1], [0, 0, 1]])
    matrix = (
        np.array([[half, 0, half - 0.5], [0, half, half - 0.5], [0, 0, 1]]) @ np.vstack([theta, (0, 0, 1)])
    ) @ to_unit
    around = outline.rim(matrix[:2], side, side)
    pixels = photos[1].permute(1, 2, 0).contiguous().numpy() * 255
    np.testing.assert_array_equal(found[1, 0].numpy(), np.rint(bound_map(pixels, 112 / side, ALLOWED, around)))


def test_the_field_is_the_products(faces: torch.Tensor, momentum: torch.Tensor) -> None:
    """To rounding, under autocast too."""
    with torch.autocast("cpu", torch.bfloat16):
        found = field_along(momentum, faces)
    for field, moved, face in zip(found, momentum, faces, strict=True):
        wanted = perturbation.field_along(moved.numpy(), face.numpy())
        np.testing.assert_allclose(field.numpy(), wanted, atol=1e-4)


def test_the_warp_is_the_products(faces: torch.Tensor, momentum: torch.Tensor) -> None:
    """As bicubic sampling of the photo, to half a level on average, and it has a gradient."""
    field = field_along(momentum, faces).requires_grad_(True)
    found = warped(faces, field, ALLOWED.warp)
    grid = np.meshgrid(np.arange(112, dtype=np.float32), np.arange(112, dtype=np.float32))
    for one, own, face in zip(found.detach(), field.detach(), faces, strict=True):
        shift = perturbation.shifts(own.numpy()) * np.float32(ALLOWED.warp * outline.FACE_SIDE)
        pixels = np.ascontiguousarray((face.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
        wanted = np.clip(remap_cubic(pixels, grid[0] + shift[..., 0], grid[1] + shift[..., 1]), 0, 255)
        assert np.abs(one.permute(1, 2, 0).numpy() * 255 - wanted).mean() < 0.5
    (slope,) = torch.autograd.grad(found.square().sum(), field)
    assert slope.abs().min() > 0


def test_pixels_move_by_whole_levels_within_their_bound(faces: torch.Tensor, momentum: torch.Tensor) -> None:
    """As pasting rounds them; the gradient passes as if nothing were rounded."""
    noise = momentum.clamp(-1, 1).requires_grad_(True)
    bound = bounds(faces, ALLOWED)
    found = drawn(faces, noise, bound)
    levels = found.detach() * 255
    assert (levels - levels.round()).abs().max() < 1e-3
    assert ((levels - (faces * 255).round()).abs() <= bound + 1e-3).all()
    (slope,) = torch.autograd.grad(found.sum(), noise)
    free = (levels > 0.5) & (levels < 254.5)
    torch.testing.assert_close(slope[free], (bound / 255).expand_as(slope)[free])


def test_looks_are_without_the_warp(faces: torch.Tensor, momentum: torch.Tensor) -> None:
    """Structure that a warp alone moves is not lost, though teachers see the warped face."""
    still = Attacked(faces, 0 * faces, ALLOWED, field_along(momentum, faces))
    assert still.lost.max() < 1e-3, "but for rounding"
    assert (still.protected - faces).abs().mean() > 0.005
    off = Attacked(faces, 0 * faces, Bound(10, 0.3, warp=0.0), field_along(momentum, faces))
    assert torch.equal(off.warped, faces)


def test_a_small_photo_has_its_own_bound(faces: torch.Tensor) -> None:
    """Photos below the template's size have the bound of their own detail, larger ones that of the face."""
    own = bounds(faces, ALLOWED)
    small, large = (Place(torch.eye(2, 3).expand(2, 2, 3), side) for side in (56, 224))
    assert not torch.equal(small.bounds(faces, own, ALLOWED), averaged(own, 56).round())
    assert torch.equal(large.bounds(faces, own, ALLOWED), large.drawn(own).round())
