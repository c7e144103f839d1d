"""The evaluation's row of private mode: what is measured is the road that devices and servers really go."""

from __future__ import annotations

import torch

from apf.filters.load import load_filter
from apf.filters.torch_filter import Filter
from apf.private.quantise import Reduction
from apf.recipe import load_recipe
from apf.research.evaluate.conditions import eight_bits
from apf.research.evaluate.crop_pipeline import crop_road
from apf.research.evaluate.methods import PRIVATE, alone, chosen, ours
from apf.research.evaluate.private_mode import key_of, private_answers, private_road
from tests.private_files import faces


def test_at_eight_bits_it_is_the_photos_road() -> None:
    """The row's perturbations are the filter's own for the same faces, but for the quantisation, and within epsilon."""
    recipe = load_recipe("standard")
    crops = faces()[:2]
    found = private_answers(recipe, reduction=Reduction(bits=8))(crops)
    wanted = Filter.load(recipe).perturbation(crops)
    assert found.shape == wanted.shape and found.abs().max() <= recipe.epsilon
    assert (found - wanted).abs().mean() * 255 < 0.1, "the roads differ by a tenth of a level"
    again = private_answers(recipe, reduction=Reduction(bits=8))(crops[:1])
    assert torch.equal(found[:1], again), "neighbours matter"


def test_answers_are_drawn_as_devices_draw_them() -> None:
    """The row shows pixels within the recipe's bound: those of the recipe's modules alone, without a warp, but for the
    quantisation.
    """
    recipe, crops = load_recipe("standard"), eight_bits(faces()[:2]).float() / 255
    found = private_road(recipe, reduction=Reduction(bits=8))(crops)
    wanted = crop_road(load_filter(alone(recipe, {"warp_percent": 0.0})))(crops)
    assert (found - wanted).abs().max() * 255 <= 3 and (found - wanted).abs().mean() * 255 < 0.2
    assert torch.equal((found * 255).round() / 255, found)


def test_the_row_is_there_and_knows_what_is_sent() -> None:
    """The row is of the middle recipe, and another reduction makes another row of it; recipes without one have none."""
    recipe = load_recipe("standard")
    (row,) = chosen(ours([recipe]), [PRIVATE])
    assert row.key == key_of(recipe, "cpu") != key_of(recipe, "cpu", Reduction(bits=1, noise=0.25))
    alone = recipe.model_copy(update={"stages": ("universal",)})
    assert PRIVATE not in {method.name for method in ours([alone])}
