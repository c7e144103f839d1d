"""The evaluation's row of private mode: what is measured is the road that devices and servers really go."""

from __future__ import annotations

import torch

from apf.evaluate.methods import PRIVATE, chosen, ours
from apf.evaluate.private_road import key_of, private_road
from apf.filter import Filter
from apf.private.quantise import Reduction
from apf.recipe import load_recipe
from tests.private_files import faces


def test_at_eight_bits_it_is_the_photos_road() -> None:
    """The row's perturbations are the filter's own for the same faces, but for the quantisation, and within epsilon."""
    recipe = load_recipe("standard")
    crops = faces()[:2]
    found = private_road(recipe, reduction=Reduction(bits=8))(crops)
    wanted = Filter.load(recipe).perturbation(crops)
    assert found.shape == wanted.shape and found.abs().max() <= recipe.epsilon
    assert (found - wanted).abs().mean() * 255 < 0.1, "the roads differ by a tenth of a level"
    assert torch.equal(found[:1], private_road(recipe, reduction=Reduction(bits=8))(crops[:1])), "neighbours matter"


def test_the_row_is_there_and_knows_what_is_sent() -> None:
    """The row is of the middle recipe, and another reduction makes another row of it; recipes without one have none."""
    recipe = load_recipe("standard")
    (row,) = chosen(ours([recipe]), [PRIVATE])
    assert row.key == key_of(recipe, "cpu") != key_of(recipe, "cpu", Reduction(bits=1, noise=0.25))
    alone = recipe.model_copy(update={"stages": ("universal",)})
    assert PRIVATE not in {method.name for method in ours([alone])}
