"""Load the recognisers of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from apf.recipe import Recipe

if TYPE_CHECKING:
    from apf.guides.guide import Guide


@dataclass(frozen=True)
class Guides:
    """The steps climb on `climbed`, and `jury` says when a face is safe."""

    climbed: tuple[Guide, ...] = ()
    jury: tuple[Guide, ...] = ()


def load_guides(recipe: Recipe, device: str = "cpu") -> Guides:
    """Return the guides and jurors of a recipe; none where it takes no steps.

    Raises:
        GuideError: one is missing, damaged, or holds operations that are not known.
    """
    if not recipe.steps:
        return Guides()
    from apf.guides.loading import load_guide  # noqa: PLC0415  `fast` does without

    climbed, jury = ([load_guide(name, device) for name in names] for names in (recipe.guides, recipe.jury))
    return Guides(tuple(climbed), tuple(jury))
