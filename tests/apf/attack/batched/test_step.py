"""One step, part by part, against that of a CPU: the same numbers up to rounding."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from apf.attack import gradient_steps
from apf.attack.batched.packing import FIELD, NOISE, packed, read, side_of
from apf.attack.batched.step import Canvases, Steps
from apf.attack.bound import Bound
from apf.attack.gradient_steps import Climb, rendered, seen_by, start_climb, through_jpeg
from apf.attack.perturbation import Change
from apf.faces.geometry import CROP
from apf.faces.resampling import warp_affine
from apf.guides import Guide
from tests.apf.attack.batched.conftest import MakeRoad
from tests.apf.attack.batched.faces import KINDS, face_of
from tests.apf.attack.scenes import STANDARD, STILL, change
from tests.apf.attack.test_protect_face import stepping

RECIPE = stepping(3)


class Both:
    """A face on both roads: as a CPU has it, and in a batch of one."""

    def __init__(self, road: MakeRoad, portrait: np.ndarray, kind: str, guide: Guide, allowed: Bound) -> None:
        task = face_of(portrait, **KINDS[kind])  # type: ignore[arg-type]
        start = change(3)
        whole = road(RECIPE)
        self.steps: Steps = whole._steps[allowed.warp > 0]
        self.face: Climb = start_climb(task.pixels, task.matrix, [guide], allowed, start=start, grey=task.grey)
        work = whole._begun(type(task)(task.pixels, task.matrix, task.grey, start), allowed, RECIPE.steps, 1.0)
        self.chance = work.chances[0]
        given = packed([work], side_of(self.face.canvas.pixels.shape), 1)
        self.given = {name: torch.from_numpy(array) for name, array in given.arrays().items()}
        self.row, self.numbers, self.state = self.given["rows"][:, 0], self.given["numbers"], self.given["state"]
        with torch.no_grad():
            self.canvases: Canvases = self.steps.begin(self.given)

    def drawn(self) -> torch.Tensor:
        return self.steps.draw(self.canvases, self.numbers, self.state)

    def shown(self, images: torch.Tensor) -> np.ndarray:
        height, width = self.face.canvas.pixels.shape[:2]
        return images[0].permute(1, 2, 0).numpy()[:height, :width]


@pytest.fixture(params=KINDS)
def both(road: MakeRoad, portrait: np.ndarray, request: pytest.FixtureRequest, dlib: Guide) -> Both:
    return Both(road, portrait, request.param, dlib, STANDARD)


def test_the_change_is_drawn_as_on_a_cpu(both: Both) -> None:
    """Warp and noise over the whole canvas, within half a level; beyond it the last pixels repeat.

    OpenCV samples a warp's two channels at places to a 32nd of a pixel.
    """
    wanted = rendered(both.face.canvas, both.face.change, STANDARD, grey=both.face.grey)
    found = both.drawn()
    np.testing.assert_allclose(both.shown(found), wanted, atol=0.5)
    assert np.abs(both.shown(found) - wanted).mean() < 0.01
    height, width = wanted.shape[:2]
    assert torch.equal(found[:, :, height:], found[:, :, height - 1 : height].expand_as(found[:, :, height:]))
    assert torch.equal(found[..., width:], found[..., width - 1 : width].expand_as(found[..., width:]))


def test_without_a_warp_it_is_noise_alone(road: MakeRoad, portrait: np.ndarray, dlib: Guide) -> None:
    """What a recipe without a warp draws."""
    one = Both(road, portrait, "100 px, at the edge", dlib, STILL)
    np.testing.assert_allclose(one.shown(one.drawn()), rendered(one.face.canvas, one.face.change, STILL), atol=0.01)


def test_a_view_sees_what_a_cpu_sees(both: Both) -> None:
    """Through JPEG where there is one: but for pixels between two levels, the same crop."""
    image, chance = both.drawn(), both.chance
    seen = both.steps.see(both.steps.coded(image, both.numbers, both.row), both.row)[0].numpy()
    levels = np.ascontiguousarray(both.shown(image))
    image = through_jpeg(levels, chance.quality) if chance.quality else levels
    whole = np.vstack([both.face.canvas.matrix, (0, 0, 1)])
    wanted = gradient_steps._softened(seen_by(image, chance.noise.view @ whole), chance.soft)
    np.testing.assert_allclose(255 * seen, 255 * wanted, atol=0.02)


def test_the_guides_gradient_goes_back_as_on_a_cpu(both: Both, dlib: Guide) -> None:
    """The same gradient by the crop, and from there in the template."""
    crop = (
        np.random.default_rng(0).random((1, 3, CROP, CROP), np.float32) * 0.2 + both.canvases.slopes.numpy()[:, 0] + 0.4
    )
    crop = crop.clip(0, 1)
    gradient = dlib.climb(crop, both.face.away[0])[1][0]
    gradient = gradient / np.abs(gradient).mean()
    found = both.steps.gradient(torch.from_numpy(crop), both.canvases.away, both.row)
    assert _cosine(found.numpy(), gradient) > 0.999
    soft = gradient_steps._softened(gradient, both.chance.soft).transpose(1, 2, 0)
    turned = warp_affine(np.ascontiguousarray(soft), both.chance.noise.view, CROP, CROP)
    wanted = cv2.GaussianBlur(turned, (0, 0), gradient_steps.DRAWN)
    back = both.steps.back(torch.from_numpy(gradient)[None], both.row)
    np.testing.assert_allclose(back[0].permute(1, 2, 0).numpy(), wanted, atol=2e-3)


def test_the_update_is_that_of_a_cpu(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise and field after a step along one gradient, momenta, rates and the bound's room included."""
    gradient = np.random.default_rng(1).standard_normal((CROP, CROP, 3)).astype(np.float32)
    gradient = cv2.GaussianBlur(gradient, (0, 0), 2)
    template = torch.from_numpy(gradient.transpose(2, 0, 1).copy())[None]
    monkeypatch.setattr(gradient_steps, "_seen_gradient", lambda *_: gradient)
    state = both.state
    for step in range(RECIPE.steps):
        row = both.given["rows"][:, step]
        state = both.steps.update(both.canvases, both.numbers, state, template, row)
    gradient_steps.climb(both.face, [], RECIPE.steps)
    wanted = [one.copy() for one in (*both.face.latents, *both.face.momenta)]
    read(state[0].numpy(), both.face)
    for one, other in zip((*both.face.latents, *both.face.momenta), wanted, strict=True):
        # Of slopes where a byte lies between two levels, a value may move.
        assert np.abs(one - other).mean() < 5e-3 * np.abs(other).mean()


def test_the_state_is_written_and_read_whole(both: Both) -> None:
    """What goes into the batch comes out of it: noise of any size, field and momenta."""
    before = [one.copy() for one in (*both.face.latents, *both.face.momenta)]
    both.face.latents, both.face.momenta = ([np.zeros_like(one) for one in before[:2]] for _ in range(2))
    read(both.state[0].numpy(), both.face)
    for one, other in zip((*both.face.latents, *both.face.momenta), before, strict=True):
        np.testing.assert_array_equal(one, other)
    assert both.state.shape[1] == 2 * (NOISE + FIELD)


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float((one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other))


def test_a_start_is_taken(both: Both) -> None:
    """The steps go on from the modules' answer, reduced to the face's own pixels."""
    assert isinstance(both.face.change, Change) and np.abs(both.face.change.noise).max() > 0.5
