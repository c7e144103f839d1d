"""The road through a whole photo, as training plays it: what the real pasting and aligning do, with gradients."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from apf.attack.bound import Bound
from apf.attack.outline import face_mask
from apf.attack.paste import paste
from apf.attack.perturbation import Change
from apf.faces import alignment as real
from apf.research.train import whole_photo
from apf.research.train.bounds import Attacked
from apf.research.train.whole_photo import Place, averaged, pasted

#: Levels.
EPSILON = 8


def smooth(seed: int, batch: int = 1) -> Tensor:
    """Pictures (batch, 3, 112, 112) in [0.2, 0.8] with details of a few pixels."""
    generator = torch.Generator().manual_seed(seed)
    small = 0.2 + 0.6 * torch.rand((batch, 3, 28, 28), generator=generator)
    return torch.nn.functional.interpolate(small, (112, 112), mode="bicubic").clamp(0.2, 0.8)


def perturbations(seed: int, batch: int = 1) -> Tensor:
    return 2 * (smooth(seed, batch) > 0.5).float() - 1


def road(faces: Tensor, noise: Tensor, generator: torch.Generator) -> Tensor:
    """What is seen of faces with noise in units of their bound."""
    return pasted(Attacked(faces, noise, Bound(EPSILON, chroma=1, warp=0)), generator)


@pytest.fixture
def even_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pixel may move by as much."""
    for place in ("apf.attack.canvas.bound_map", "apf.research.train.bounds.bound_map"):
        monkeypatch.setattr(place, lambda pixels, *_: np.full(pixels.shape[:2], EPSILON, np.float32))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def published_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """No JPEG, and a recogniser that finds the face exactly where we did."""
    monkeypatch.setattr(whole_photo, "JPEG_SHARE", 0.0)
    monkeypatch.setattr(whole_photo, "ALIGNMENT_STD", 0.0)


@pytest.mark.parametrize(("large", "small"), [(112, 47), (112, 111), (300, 112), (224, 112)])
def test_averaging_is_opencv_s(large: int, small: int) -> None:
    """The same averages over areas as INTER_AREA, whatever the ratio."""
    picture = torch.rand((1, 3, large, large), generator=generator())
    wanted = cv2.resize(picture[0].permute(1, 2, 0).numpy(), (small, small), interpolation=cv2.INTER_AREA)
    assert np.abs(averaged(picture, small)[0].permute(1, 2, 0).numpy() - wanted).max() < 1e-4


@pytest.mark.rotating
@pytest.mark.usefixtures("published_as_it_is", "even_bound")
@pytest.mark.parametrize("scale", [0.5, 0.8, 1.0, 1.7, 2.5])
def test_as_the_real_road(monkeypatch: pytest.MonkeyPatch, scale: float) -> None:
    """What is left of noise is what pasting and aligning leave of it in a photo of that scale, under an even bound."""
    compare(monkeypatch, scale)


@pytest.mark.rotating
@pytest.mark.usefixtures("published_as_it_is")
@pytest.mark.parametrize("scale", [0.5, 0.8, 1.0])
def test_as_the_real_road_under_its_own_bound(monkeypatch: pytest.MonkeyPatch, scale: float) -> None:
    """The same where each pixel's bound is the photo's."""
    compare(monkeypatch, scale)


def compare(monkeypatch: pytest.MonkeyPatch, scale: float) -> None:
    side = round(112 * scale)
    place = Place(torch.tensor([[[0.995, -0.0998, 0.012], [0.0998, 0.995, -0.007]]]), side)
    monkeypatch.setattr(Place, "draw", lambda *_: place)
    faces, noise = smooth(1), perturbations(2)
    left = road(faces, noise, generator()) - road(faces, torch.zeros_like(noise), generator())

    # The same map in pixels: normalised coordinates are (2 i + 1) / size - 1.
    theta = place.to_template[0].double().numpy()
    to_unit = np.array([[2 / side, 0, 1 / side - 1], [0, 2 / side, 1 / side - 1], [0, 0, 1]])
    to_pixel = np.array([[56, 0, 55.5], [0, 56, 55.5], [0, 0, 1]])
    matrix = (to_pixel @ np.vstack([theta, [0, 0, 1]]) @ to_unit)[:2]
    photo = (place.drawn(faces)[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    out = paste(photo, [Change(noise[0].numpy())], [matrix], Bound(EPSILON, chroma=1, warp=0))
    wanted = real.align(out, matrix) - real.align(photo, matrix)

    ours, theirs = left[0].numpy(), wanted
    within = np.broadcast_to(face_mask(112) == 1, ours.shape)
    assert within.mean() > 0.5
    assert np.corrcoef(ours[within], theirs[within])[0, 1] > 0.97
    assert np.abs(ours[within]).mean() == pytest.approx(np.abs(theirs[within]).mean(), rel=0.07)


def test_small_faces_keep_less() -> None:
    """Fine detail does not survive a face of 40 pixels, as it does at 100 and 280."""
    faces, delta = smooth(1, 4), perturbations(2, 4)

    def kept(scale: float) -> float:
        place = Place.draw(faces, generator())
        place = Place(place.to_template, round(112 * scale))
        return float((place.cut(place.drawn(delta)) * delta).sum() / delta.square().sum())

    assert kept(0.42) < min(kept(1.0), kept(3.0)) - 0.1


@pytest.mark.usefixtures("published_as_it_is", "even_bound")
def test_bound_holds() -> None:
    """No pixel of the aligned face moves by more than its bound and what is rounded."""
    faces, noise = smooth(1, 2), perturbations(2, 2)
    for seed in range(6):
        clean, ours = (road(faces, one, generator(seed)) for one in (torch.zeros_like(noise), noise))
        assert (clean - ours).abs().max() * 255 <= EPSILON + 1e-3


@pytest.mark.rotating
@pytest.mark.usefixtures("published_as_it_is", "even_bound")
@pytest.mark.parametrize("seed", range(4))
def test_gradients_are_those_of_what_is_seen(seed: int) -> None:
    """Against finite differences, which rounding to whole levels blurs."""
    faces, noise = smooth(1, 2), 0.375 * perturbations(2, 2)
    direction = perturbations(3, 2)

    def told(moved: Tensor) -> Tensor:
        return (road(faces, moved, generator(seed)) * direction).double().sum()

    x = noise.clone().requires_grad_(True)
    (found,) = torch.autograd.grad(told(x), x)
    step = 0.375  # whole levels, three, where nothing is interpolated
    expected = (told(noise + step * direction) - told(noise - step * direction)) / (2 * step)
    assert (found * direction).sum().item() == pytest.approx(expected.item(), rel=0.03)


def test_jpeg_happens_and_lets_gradients_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_photo, "ALIGNMENT_STD", 0.0)
    faces, seen, gradients = smooth(1, 2), [], []
    for share in (0.0, 1.0):
        monkeypatch.setattr(whole_photo, "JPEG_SHARE", share)
        noise = perturbations(2, 2).requires_grad_(True)
        seen.append(road(faces, noise, generator()))
        gradients.append(torch.autograd.grad(seen[-1].sum(), noise)[0])
    assert 1e-3 < (seen[0] - seen[1]).abs().mean() < 0.05
    assert torch.allclose(gradients[0], gradients[1], atol=1e-4)


def test_a_recogniser_aligns_a_little_beside_us(monkeypatch: pytest.MonkeyPatch) -> None:
    faces, noise = smooth(1, 2), perturbations(2, 2)
    moved = road(faces, noise, generator(1))
    assert torch.equal(moved, road(faces, noise, generator(1))), "a seed is a road"
    monkeypatch.setattr(whole_photo, "ALIGNMENT_STD", 0.0)
    assert not torch.allclose(moved, road(faces, noise, generator(1)), atol=0.01)


def test_sizes_differ_and_autocast_changes_nothing() -> None:
    """Places need all of float32."""
    faces, noise = smooth(1, 2), perturbations(2, 2)
    sides = {Place.draw(faces, generator(seed)).side for seed in range(20)}
    assert len(sides) > 15 and min(sides) >= 47 and max(sides) <= 336
    for seed in range(6):
        with torch.autocast("cpu", torch.bfloat16):
            seen = road(faces, noise, generator(seed))
        assert torch.equal(seen, road(faces, noise, generator(seed)))
        assert seen.min() >= 0 and seen.max() <= 1 and seen.shape == faces.shape
