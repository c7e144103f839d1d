"""Kinds of photo: each is what it is called, and protection is told apart from what the kind does by itself."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from apf.faces.alignment import ARCFACE_TEMPLATE, align, alignment
from apf.filters.torch_filter import Filter
from apf.guides.torch_recogniser import Recogniser
from apf.recipe import Recipe
from apf.research.evaluate.crop_pipeline import protected_crops
from apf.research.evaluate.kinds import KINDS, kinds
from apf.research.evaluate.targets import Pairs, Target

#: Signs in squares of 8 pixels, of a colour each: (3, 112, 112).
PATTERN = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(7, 7).repeat_interleave(8, 0).repeat_interleave(8, 1)
COLOUR = torch.tensor([1.0, -1.0, 1.0]).view(3, 1, 1)


class Signs(Filter):
    """A filter that adds the same signs to each face, at `levels` of 255."""

    def __init__(self, levels: int) -> None:
        self.recipe = Recipe(name="signs", epsilon_levels=8, chroma=1, steps=0, warp_percent=0)
        self.device = torch.device("cpu")
        self.levels = levels

    def _answers(self, faces: Tensor, clock: object = None) -> Tensor:
        assert faces.min() >= 0 and faces.max() <= 1
        return torch.cat([(COLOUR * PATTERN * self.levels / 255).expand_as(faces), torch.zeros_like(faces)], 1)


class Finder(nn.Module):
    """Embeds a face as an angle that turns with how much of the pattern is in it."""

    def forward(self, faces: Tensor) -> Tensor:
        there = (faces * PATTERN).mean((1, 2, 3)) * 100
        return torch.stack([torch.ones_like(there), there], 1)


@pytest.fixture(scope="module")
def pairs(portrait: np.ndarray) -> Pairs:
    """The astronaut's face in four slightly other cuts, twice."""
    eyes = np.array([[205, 113], [244, 112], [226, 136], [207, 151], [245, 151]], float)
    cuts = [torch.from_numpy(align(portrait, alignment(eyes + shift))) for shift in (0, 1, 2, 3)]
    return Pairs(torch.stack(cuts), torch.stack(cuts), ("a", "b", "c", "d"))


def finder(name: str, *, trained_on: bool) -> Target:
    return Target(name, Recogniser(Finder()), (0.97, 0.5), trained_on, torch.zeros(0, 2), ())


@pytest.fixture(scope="module")
def targets() -> list[Target]:
    return [finder("known", trained_on=True), finder("stranger", trained_on=False)]


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_are_pictures(pairs: Pairs, kind: str) -> None:
    """Every kind gives faces of the same shape in [0, 1], the same each time, and all but "as it is" differ."""
    faces = KINDS[kind](pairs.probes)
    assert faces.shape == pairs.probes.shape and faces.dtype == torch.float32
    assert faces.min() >= 0 and faces.max() <= 1
    assert torch.equal(faces, KINDS[kind](pairs.probes))
    assert torch.equal(faces, pairs.probes) == (kind == "as it is")


def test_brightness_and_sharpness(pairs: Pairs) -> None:
    """Dark is darker, overexposed is brighter with white in it, blurred and low resolution lose detail, noise adds."""
    mean = {kind: change(pairs.probes).mean().item() for kind, change in KINDS.items()}
    detail = {kind: change(pairs.probes).diff(dim=3).abs().mean().item() for kind, change in KINDS.items()}
    assert mean["dark"] == pytest.approx(0.35 * mean["as it is"], rel=1e-4)
    assert mean["overexposed"] > 1.3 * mean["as it is"]
    assert (KINDS["overexposed"](pairs.probes) == 1).float().mean() > 0.1
    assert max(detail["blurred"], detail["low resolution"]) < 0.8 * detail["as it is"] < 0.6 * detail["noisy"]


def test_sunglasses_cover_the_eyes_and_nothing_else() -> None:
    """On a white face both eyes and the bridge between are dark; brows' edge, nose, mouth and chin stay white."""
    covered = KINDS["sunglasses"](torch.ones(1, 3, 112, 112))[0, 0]
    for x, y in ARCFACE_TEMPLATE[:2].round().astype(int):
        assert covered[y - 4 : y + 5, x - 4 : x + 5].max() < 0.15
    assert covered[48, 38:74].max() < 0.5, "the bar between the lenses has a gap"
    rows, columns = torch.nonzero(covered < 1, as_tuple=True)
    assert (rows.min() >= 38) and (rows.max() <= 66) and (columns.min() >= 21) and (columns.max() <= 91)
    for x, y in ARCFACE_TEMPLATE[2:].round().astype(int):
        assert covered[y - 4 : y + 5, x - 4 : x + 5].min() == 1


def test_grey_stays_grey(pairs: Pairs) -> None:
    """A grey face stays grey under a perturbation of three colours, and a coloured one is moved by the colours."""
    both = torch.cat([KINDS["greyscale"](pairs.probes[:1]), pairs.probes[:1]])
    clean = (both * 255).round().to(torch.uint8)
    clean = clean.clamp(20, 235)
    moved = protected_crops(clean, Signs(6)).int() - clean.int()
    assert torch.equal(moved[0], moved[0, :1].expand(3, -1, -1)) and moved[0].any()
    assert not torch.equal(moved[1], moved[1, :1].expand(3, -1, -1))


def test_rows(pairs: Pairs, targets: list[Target]) -> None:
    """Each kind has a row a condition; protection, its absence and the difference stand side by side, in percent."""
    rows = kinds(pairs, Signs(8), targets)
    assert [(row.kind, row.condition) for row in rows] == [(k, c) for k in KINDS for c in ("raw", "jpeg75")]
    plain = rows[0]
    assert plain.photos == 4
    assert plain.none == {"known": (0.0, 0.0), "stranger": (0.0, 0.0)}, "a photo no longer matches itself"
    assert plain.ours["stranger"][0] == 100.0
    for row in rows:
        for name in ("known", "stranger"):
            assert row.gain[name] == tuple(a - b for a, b in zip(row.ours[name], row.none[name], strict=True))
    assert json.loads(json.dumps([asdict(row) for row in rows]))[0]["mean_ours"] == list(plain.mean_ours)


def test_no_perturbation_gains_nothing(pairs: Pairs, targets: list[Target]) -> None:
    """A filter that changes nothing has no gain on any kind: what the kind does by itself is not counted as ours."""
    rows = kinds(pairs, Signs(0), targets)
    assert all(row.mean_gain == (0.0, 0.0) and row.ours == row.none for row in rows)


@pytest.mark.parametrize(("flags", "expected"), [((True, False), 0.0), ((False, True), 100.0), ((True, True), 50.0)])
def test_means_are_over_strangers(pairs: Pairs, flags: tuple[bool, bool], expected: float) -> None:
    """The mean is over recognisers that training did not attack, or over all where it attacked all."""
    blind = Target("blind", finder("", trained_on=False).recogniser, (-1.0, -1.0), flags[1], torch.zeros(0, 2), ())
    sharp = Target("sharp", finder("", trained_on=False).recogniser, (1.1, 1.1), flags[0], torch.zeros(0, 2), ())
    row = kinds(pairs, Signs(8), [sharp, blind], chosen={"as it is": KINDS["as it is"]})[0]
    assert row.mean_none == (expected, expected)
