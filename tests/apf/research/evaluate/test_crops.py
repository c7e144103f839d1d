"""Rows of the evaluation: right in made-up cases, kept between runs, and made anew when anything changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from apf.attack.bound import Bound
from apf.attack.paste import paste
from apf.attack.protect_face import Task, hide
from apf.filters.load import load_filter
from apf.recipe import Recipe, load_recipe
from apf.research.evaluate.conditions import SOURCES, eight_bits
from apf.research.evaluate.crop_pipeline import crop_road
from apf.research.evaluate.crops import BATCH, Row, evaluate, protected
from apf.research.evaluate.methods import STAGES, Method, alone, chosen, none, ours
from apf.research.evaluate.store import Store
from apf.research.evaluate.targets import Pairs, Target
from apf.research.evaluate.timing import timings
from apf.research.train.data import DataError
from tests.apf.research.evaluate import world

World = tuple[Pairs, list[Target]]


@pytest.fixture(scope="module")
def small() -> World:
    return world.small()


def test_nothing_protects_nobody_and_inversion_everybody(small: World) -> None:
    """Untouched photos are matched by everyone, inverted ones by nobody: 0 and 100 percent, also in the means."""
    nothing, inverting = evaluate(*small, [none(), world.inverting()])
    for row, percent in ((nothing, 0), (inverting, 100)):
        seen = row.conditions["raw"]
        assert seen.unseen is not None and seen.trained is not None
        assert seen.unseen.protection == seen.trained.protection == (percent, percent)
        assert seen.unseen.rank1 == percent
        for verdict in seen.recognisers.values():
            assert [rate.percent for rate in verdict.protection] == [percent, percent]
            assert verdict.rank1.low <= verdict.rank1.percent <= verdict.rank1.high
    assert (nothing.psnr_db, nothing.ssim) == (None, pytest.approx(1))
    assert inverting.psnr_db is not None and inverting.psnr_db < 15


def test_means_keep_strangers_and_known_apart(small: World) -> None:
    """The mean over the unseen leaves out recognisers that were trained on; without any there is no mean."""
    pairs, (stranger, known) = small
    lenient = replace(known, thresholds=(-2.0, -2.0))
    (row,) = evaluate(pairs, [stranger, lenient], [world.inverting()], {"raw": lambda seen: seen})
    seen = row.conditions["raw"]
    assert seen.unseen is not None and seen.unseen.protection == (100, 100)
    assert seen.trained is not None and seen.trained.protection == (0, 0)
    (alone,) = evaluate(pairs, [known], [none()])
    assert alone.conditions["raw"].unseen is None


def test_only_half_is_protected(small: World) -> None:
    """A method that works on every other person gives 50 percent, whatever the batches."""
    pairs, targets = small
    count = iter(range(1000))

    def build() -> Callable[[Tensor], Tensor]:
        def perturb(faces: Tensor) -> Tensor:
            odd = torch.tensor([float(next(count) % 2) for _ in faces])[:, None, None, None]
            return odd * (1 - 2 * faces)

        return perturb

    (row,) = evaluate(pairs, targets, [Method("half of them", build, "")], {"raw": lambda seen: seen}, {})
    assert [rate.percent for rate in row.conditions["raw"].recognisers["corner"].protection] == [50, 50]


def test_protected_faces_are_rounded_pictures() -> None:
    """What a recogniser sees is 8-bit: perturbed, cut to the range, rounded, in the order of the faces."""
    faces = torch.rand(BATCH + 3, 3, 112, 112, generator=torch.Generator().manual_seed(1))
    lifted = protected(Method("lift", lambda: lambda seen: torch.full_like(seen, 0.1), ""), faces)
    assert torch.equal(lifted, ((faces + 0.1).clamp(max=1) * 255).round().to(torch.uint8))


def test_sources_are_protected_as_they_are(small: World) -> None:
    """A face is sharpened before the method sees it, not after: what the method adds comes on top, as large as ever."""
    pairs, targets = small
    given: list[torch.Tensor] = []

    def perturb(faces: Tensor) -> Tensor:
        given.append(faces)
        return torch.zeros_like(faces)

    black = {"black": torch.zeros_like}
    (row,) = evaluate(pairs, targets, [Method("watched", lambda: perturb, "")], {"raw": lambda seen: seen}, black)
    seen = torch.cat(given)
    count = len(pairs.people)
    assert torch.equal(seen[:count], pairs.probes) and len(seen) == 2 * count and not seen[count:].any()
    rates = [row.conditions[name].recognisers["corner"].protection[0].percent for name in ("raw", "black")]
    assert rates == [0, 100], "a black face is nobody's, however little was added"


def test_modules_alone_take_no_steps() -> None:
    """Rows of parts have neither steps nor warp; whole recipes keep theirs, and are drawn within their bound."""
    recipe = load_recipe("standard").model_copy(update={"steps": 2, "guides": ("dlib",)})
    part = alone(recipe, {"stages": ("universal",)})
    assert (part.steps, part.warp_percent, part.stages, part.guides) == (0, 0.6, ("universal",), ())
    assert recipe.steps > 0 and part.id != recipe.id


def test_crops_go_the_products_road(crops: Tensor) -> None:
    """A crop of our own rows is what a photo that is the crop becomes: to the pixel, steps and warp included."""
    recipe = load_recipe("standard").model_copy(update={"steps": 2})
    filter_ = load_filter(recipe)
    faces = eight_bits(crops[:1]).float() / 255
    moved = crop_road(filter_)(faces)
    pixels = np.ascontiguousarray(eight_bits(faces)[0].permute(1, 2, 0).numpy())
    (start,) = filter_.changes([faces[0].numpy()])
    (hidden,) = hide([Task(pixels, np.eye(2, 3), False, start)], recipe, filter_.guides)
    wanted = paste(pixels, [hidden.change], [np.eye(2, 3)], Bound.of(recipe))
    assert np.array_equal(eight_bits(faces + moved)[0].permute(1, 2, 0).numpy(), wanted)
    assert hidden.change.field is not None and moved.abs().max() > 0


class Counted:
    """A method that counts how often it is built."""

    def __init__(self, key: str = "1") -> None:
        self.built = 0
        self.method = Method("counted: method", self._build, key, recipe="standard")

    def _build(self) -> Callable[[Tensor], Tensor]:
        self.built += 1
        return lambda seen: torch.full_like(seen, 0.01)


def test_rows_are_kept(small: World, tmp_path: Path) -> None:
    """A second run reads rows instead of computing them, and they are the same to the digit."""
    counted = Counted()
    first = Store(tmp_path).rows(*small, [world.nothing(), counted.method])
    again = Store(tmp_path).rows(*small, [world.nothing(), counted.method])
    assert counted.built == 1
    assert again == first == evaluate(*small, [world.nothing(), counted.method])
    assert [row.method for row in again] == ["nothing", "counted: method"]
    assert (tmp_path / "counted-method.json").exists()
    assert torch.load(tmp_path / "counted-method.pt")["pixels"].dtype == torch.uint8


def test_other_weights_or_people_are_computed_anew(small: World, tmp_path: Path) -> None:
    """Another key of the method, other people, or `fresh`, and the faces are made anew; then those are kept."""
    pairs, targets = small
    counted, other = Counted(), Counted(key="2")
    fewer = Pairs(pairs.probes[:5], pairs.gallery[:5], pairs.people[:5])
    Store(tmp_path).rows(pairs, targets, [counted.method])
    for _ in range(2):
        Store(tmp_path).rows(pairs, targets, [other.method])
    assert (counted.built, other.built) == (1, 1)
    Store(tmp_path).rows(fewer, targets, [other.method])
    assert other.built == 2
    Store(tmp_path, fresh=True).rows(fewer, targets, [other.method])
    assert other.built == 3


@pytest.mark.parametrize("change", ["recogniser", "conditions", "damage"])
def test_faces_are_kept_when_only_the_judges_change(small: World, tmp_path: Path, change: str) -> None:
    """Another recogniser, another condition, or a row that was cut off: judged anew, from the faces that are kept."""
    pairs, targets = small
    counted = Counted()
    Store(tmp_path).rows(pairs, targets, [counted.method])
    if change == "recogniser":
        (row,) = Store(tmp_path).rows(pairs, [replace(targets[0], sha256="another")], [counted.method])
        assert list(row.conditions["raw"].recognisers) == ["corner"]
    elif change == "conditions":
        (row,) = Store(tmp_path).rows(pairs, targets, [counted.method], {"inverted": lambda seen: 255 - seen})
        assert list(row.conditions) == ["inverted", *SOURCES]
    else:
        file = tmp_path / "counted-method.json"
        file.write_text(file.read_text()[:-40])
        (row,) = Store(tmp_path).rows(pairs, targets, [counted.method])
        assert json.loads(file.read_text())["row"]["method"] == row.method
    assert counted.built == 1


def test_a_row_survives_json(small: World) -> None:
    """A row written as JSON reads as the same row."""
    for row in evaluate(*small, [none(), world.inverting()]):
        assert Row.model_validate_json(row.model_dump_json()) == row


def test_methods_are_chosen_by_name() -> None:
    """Names pick rows in the rows' own order; an unknown name is refused with the names there are."""
    methods = [none(), world.nothing(), world.inverting()]
    assert [one.name for one in chosen(methods, ["inverting", "none"])] == ["none", "inverting"]
    assert chosen(methods, []) == methods
    with pytest.raises(DataError, match="no method named 'magic': use one of none, nothing, inverting"):
        chosen(methods, ["magic"])


def test_rows_of_ours() -> None:
    """Each recipe gives a row of the curve; parts are of `standard`, and none repeats a whole recipe."""
    recipes = [Recipe(name=name, epsilon_levels=level) for name, level in (("light", 5), ("standard", 8))]
    methods = ours(recipes)
    names = [method.name for method in methods]
    assert [method.recipe for method in methods if method.recipe] == ["light", "standard"]
    assert set(STAGES) < set(names)
    assert len({method.key for method in methods}) == len(methods)


def test_rows_at_other_precisions() -> None:
    """A precision that is asked for is one more row of the middle recipe, with a key of its own; others are refused."""
    recipes = [Recipe(name="standard", epsilon_levels=8)]
    usual, more = ours(recipes), ours(recipes, precisions=["bfloat16"])
    assert [method.name for method in more[len(usual) :]] == ["ours: standard, bfloat16"]
    assert len({method.key for method in more}) == len(more)
    with pytest.raises(DataError, match="no precision named 'half': use one of auto, float32, bfloat16"):
        ours(recipes, precisions=["half"])


def test_timing_takes_turns() -> None:
    """Each method warms up on one face, then all take turns on the same faces; the minimum is under the median."""
    calls: list[tuple[str, int]] = []

    def method(name: str) -> Method:
        def perturb(faces: Tensor) -> Tensor:
            calls.append((name, len(faces)))
            return faces

        return Method(name, lambda: perturb, "")

    found = timings([method("a"), method("b")], torch.zeros(4, 3, 112, 112), runs=2)
    assert calls == [("a", 1), ("b", 1), ("a", 4), ("b", 4), ("a", 4), ("b", 4)]
    for timing in found.values():
        assert 0 < timing.minimum_ms <= timing.median_ms
        assert (timing.faces, timing.runs) == (4, 2)
