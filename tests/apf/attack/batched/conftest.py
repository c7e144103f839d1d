"""Guides by torch on a CPU, which do what a GPU's would."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from apf.attack.batched.road import BatchedRoad, TorchGuides
from apf.guides.loading import find_source
from apf.guides.torch_guide import TorchGuide, torch_guide, torch_probe
from apf.recipe import Recipe

MakeRoad = Callable[..., BatchedRoad]


@pytest.fixture(scope="session")
def torch_guides_here() -> dict[str, TorchGuide]:
    found = {name: torch_guide(find_source(name), "cpu") for name in ("dlib", "apf-mfn")}
    return found | {"probe": torch_probe("cpu")}


@pytest.fixture
def road(torch_guides_here: dict[str, TorchGuide]) -> MakeRoad:
    """Makes the road of a recipe's guides, on the CPU."""

    def make(recipe: Recipe, **options: object) -> BatchedRoad:
        climbed, jury = (tuple(torch_guides_here[one] for one in names) for names in (recipe.guides, recipe.jury))
        given: dict[str, object] = {"sizes": (1, 2, 4)} | options
        return BatchedRoad(TorchGuides(climbed, jury), torch.device("cpu"), **given)  # type: ignore[arg-type]

    return make
