"""The rows: nothing, the rivals, and ours by stage and by recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch

from apf.filters.load import load_filter
from apf.filters.precision import PRECISIONS, Precision
from apf.filters.torch_filter import Filter
from apf.recipe import Recipe
from apf.research.evaluate.crop_pipeline import crop_road
from apf.research.evaluate.private_mode import has_private, key_of, private_road
from apf.research.evaluate.rivals.types import Perturb
from apf.research.train.data import DataError

#: The row that costs are compared with.
YARDSTICK = "MI-DI-40"

#: Modules of ours, alone: what to change in the recipe besides its steps, by the name of the row.
STAGES: dict[str, dict[str, object]] = {
    "ours: gradient": {"stages": ("gradient",)},
    "ours: universal": {"stages": ("universal",)},
    "ours: gradient + universal": {"stages": ("gradient", "universal")},
    "ours: gradient + transfer": {"stages": ("gradient", "transfer")},
}

#: The middle recipe once more, by the road of private mode.
PRIVATE = "ours: private"


@dataclass(frozen=True)
class Method:
    """One row: how to make its perturbation, once it is wanted."""

    name: str
    #: Loads what is needed; may raise the errors of `Filter.load`.
    build: Callable[[], Perturb]
    #: All that the perturbation depends on but the face: equal keys, equal perturbations.
    key: str
    #: The recipe that this row shows whole; empty for a rival or a part of ours.
    recipe: str = ""


def none() -> Method:
    """Return the photo as it is: what a recogniser does not match anyway."""
    return Method("none", lambda: torch.zeros_like, "none")


def ours(recipes: Sequence[Recipe], device: str = "cpu", precisions: Sequence[str] = ()) -> list[Method]:
    """Each recipe whole, and the parts of the middle one: "standard" if it is there, else the first.

    Args:
        precisions: the middle recipe once more at each of these (`apf.filters.precision`); a CPU emulates bfloat16.

    Raises:
        DataError: there is no such precision.
    """
    base = middle(recipes)
    whole = [_filter(f"ours: {recipe.name}", recipe, device, curve=recipe.name) for recipe in recipes]
    known = {recipe.id for recipe in recipes}
    private = [Method(PRIVATE, lambda: private_road(base, device), key_of(base, device))] if has_private(base) else []
    parts = [(name, alone(base, update)) for name, update in STAGES.items()]
    lower = [_at_precision(base, device, precision) for precision in precisions]
    return [_filter(name, recipe, device) for name, recipe in parts if recipe.id not in known] + [
        *whole,
        *private,
        *lower,
    ]


def middle(recipes: Sequence[Recipe]) -> Recipe:
    """Return the recipe whose bound the rivals get."""
    return next((recipe for recipe in recipes if recipe.name == "standard"), recipes[0])


def chosen(methods: Iterable[Method], names: Sequence[str]) -> list[Method]:
    """Return the methods of these names, in their own order; all if no name is given.

    Raises:
        DataError: a name is unknown.
    """
    found = {method.name: method for method in methods}
    for name in names:
        if name not in found:
            raise DataError(f"no method named {name!r}: use one of {', '.join(found)}")
    return [method for name, method in found.items() if not names or name in names]


def alone(recipe: Recipe, update: Mapping[str, object]) -> Recipe:
    """Return the recipe with other fields, and without what goes on from its modules."""
    return Recipe.model_validate({**recipe.model_dump(), **update, "steps": 0})


def _filter(name: str, recipe: Recipe, device: str, curve: str = "") -> Method:
    return Method(name, lambda: crop_road(load_filter(recipe, device)), f"road {recipe.id} {device}", curve)


def _at_precision(recipe: Recipe, device: str, precision: str) -> Method:
    if precision not in PRECISIONS:
        raise DataError(f"no precision named {precision!r}: use one of {', '.join(PRECISIONS)}")

    def build() -> Perturb:
        return crop_road(Filter.load(recipe, device, precision=cast(Precision, precision)))

    return Method(f"ours: {recipe.name}, {precision}", build, f"road {recipe.id} {device} {precision}")
