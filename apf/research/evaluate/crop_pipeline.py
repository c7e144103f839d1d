"""The product's road on aligned crops: each crop is a photo of its own, of nothing but the face."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from apf.attack.bound import Bound
from apf.attack.paste import paste
from apf.attack.perturbation import Change
from apf.attack.protect_face import Task
from apf.faces.alignment import UInt8
from apf.filters.load import PhotoFilter
from apf.recipe import Recipe
from apf.research.evaluate.conditions import eight_bits
from apf.research.evaluate.rivals.types import Perturb

#: A crop's own alignment.
ALIGNED = np.eye(2, 3)


def crop_road(filter_: PhotoFilter) -> Perturb:
    """Return what protection does to aligned faces, steps and bound included, as the difference of 8-bit pictures."""

    def perturb(faces: Tensor) -> Tensor:
        clean = eight_bits(faces.cpu())
        return ((protected_crops(clean, filter_).float() - clean.float()) / 255).to(faces)

    return perturb


def pasted_road(answer: Perturb, recipe: Recipe) -> Perturb:
    """Return what is left of perturbations within epsilon, once they are drawn within the recipe's bound."""

    def perturb(faces: Tensor) -> Tensor:
        clean = eight_bits(faces.cpu())
        units = answer(clean.float() / 255).cpu().numpy() / np.float32(recipe.epsilon)
        return ((drawn(clean, [Change(unit) for unit in units], recipe).float() - clean.float()) / 255).to(faces)

    return perturb


def protected_crops(clean: Tensor, filter_: PhotoFilter) -> Tensor:
    """Aligned crops (N, 3, 112, 112) uint8 RGB as the filter protects them; grey ones stay grey."""
    recipe, pictures = filter_.recipe, _pictures(clean)
    faces = list((clean.float() / 255).numpy())
    starts = filter_.changes(faces)
    tasks = [Task(one, ALIGNED, _is_grey(one), start) for one, start in zip(pictures, starts, strict=True)]
    return drawn(clean, [one.change for one in filter_.hide(tasks)], recipe)


def drawn(clean: Tensor, changes: Sequence[Change], recipe: Recipe) -> Tensor:
    """Aligned crops (N, 3, 112, 112) uint8 RGB with a change on each, within the recipe's bound."""
    allowed = Bound.of(recipe)
    found = [
        torch.from_numpy(paste(picture, [change], [ALIGNED], allowed, grey=_is_grey(picture))).permute(2, 0, 1)
        for picture, change in zip(_pictures(clean), changes, strict=True)
    ]
    return torch.stack(found) if found else clean


def _pictures(crops: Tensor) -> list[UInt8]:
    return [np.ascontiguousarray(crop.permute(1, 2, 0).numpy()) for crop in crops]


def _is_grey(picture: UInt8) -> bool:
    return bool((picture == picture[..., :1]).all())
