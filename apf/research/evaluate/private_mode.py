"""Private mode as a row: what the device sends is all that the perturbation is made of."""

from __future__ import annotations

from dataclasses import asdict, astuple

import torch
from torch import Tensor

from apf.filters.torch_filter import Filter
from apf.private.files import Gradients, Perturbations, Terms
from apf.private.key import noise_seed, photo_id
from apf.private.quantise import DEFAULT, Reduction
from apf.private.server import perturb
from apf.recipe import Recipe
from apf.research.evaluate.crop_pipeline import pasted_road
from apf.research.evaluate.rivals.types import Perturb
from apf.stages.numpy_gradient import LightProbe

#: A device's key, always the same one, for the same noise each time.
KEY = bytes(32)


def private_road(recipe: Recipe, device: str = "cpu", reduction: Reduction = DEFAULT) -> Perturb:
    """Return what devices do to faces: gradient by NumPy, reduced, encoded, answered, decoded, drawn within the
    bound.
    """
    return pasted_road(private_answers(recipe, device, reduction), recipe)


def private_answers(recipe: Recipe, device: str = "cpu", reduction: Reduction = DEFAULT) -> Perturb:
    """Return the perturbations of faces as devices get them, within epsilon: not yet drawn."""
    probe, server = LightProbe(), Filter.load(recipe, device)
    terms = Terms.of(recipe)

    def one(face: Tensor) -> Tensor:
        crop = face.cpu().numpy()
        found = probe.gradient(crop, recipe.epsilon, recipe.stages)
        data = crop.tobytes()
        seed = noise_seed(KEY, data, reduction.noise)
        sent = Gradients.of(photo_id(KEY, data), terms, found[None], **asdict(reduction), seed=seed)
        (answer,) = perturb([Gradients.decode(sent.encode())], server)
        return torch.from_numpy(Perturbations.decode(answer.encode()).values()[0])

    return lambda faces: torch.stack([one(face) for face in faces]).to(faces)


def has_private(recipe: Recipe) -> bool:
    """Return whether the recipe has this road."""
    return "gradient" in recipe.stages


def key_of(recipe: Recipe, device: str, reduction: Reduction = DEFAULT) -> str:
    """All that the row depends on but the faces."""
    return f"private road {recipe.id} {device} {astuple(reduction)}"
