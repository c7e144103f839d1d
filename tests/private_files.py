"""Gradient files, made as an owner's device makes them, but by torch."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import insightface
import numpy as np
import skimage.data
import torch
from PIL import Image
from torch import Tensor

from apf.faces.alignment import align, alignment
from apf.filters.load import PhotoFilter, load_filter
from apf.filters.torch_filter import Filter
from apf.private.files import Gradients, Perturbations, Terms
from apf.private.server import perturb
from apf.stages.compose import start_of
from apf.stages.gradient import gradient

SIX_FACES = Path(insightface.__file__).parent / "data" / "images" / "t1.jpg"


@cache
def filter_of(recipe: str = "light") -> Filter:
    return Filter.load(recipe)


@cache
def faces() -> Tensor:
    """(7, 3, 112, 112): an astronaut's face, and six of one photo."""
    with Image.open(SIX_FACES) as photo:
        photos = [skimage.data.astronaut(), np.asarray(photo.convert("RGB"))]
    found = filter_of().detector.detect(photos)
    crops = [align(photo, alignment(f.landmarks)) for photo, own in zip(photos, found, strict=True) for f in own]
    assert len(crops) == 7
    return torch.from_numpy(np.stack(crops))


def gradients_of(chosen: Tensor, recipe: str = "light", *, bits: int = 8) -> Gradients:
    """Of faces, (n, 3, 112, 112); n may be 0."""
    loaded = filter_of(recipe)
    start = start_of(loaded.uap, loaded.recipe.stages, len(chosen))
    if len(chosen):
        # Each alone, as the filter does on a CPU.
        found = torch.cat(
            [
                gradient(loaded.probe, face[None], loaded.recipe.epsilon, None if start is None else start[:1])
                for face in chosen
            ]
        )
    else:
        found = torch.zeros(0, 6, 112, 112)
    name = hashlib.sha256(chosen.numpy().tobytes()).hexdigest()[:32]
    return Gradients.of(name, Terms.of(loaded.recipe), found.numpy(), bits=bits)


@cache
def gradient_file(*numbers: int, recipe: str = "light", bits: int = 8) -> bytes:
    """The file of a photo with these of `faces`."""
    return gradients_of(faces()[list(numbers)], recipe, bits=bits).encode()


def answer(data: bytes, recipe: str = "light") -> bytes:
    """The perturbation file that the server's part makes of a gradient file, without any queue."""
    return perturb([Gradients.decode(data)], _server(recipe))[0].encode()


@cache
def _server(recipe: str) -> PhotoFilter:
    return load_filter(recipe)


def is_like_the_photos_road(data: bytes, *numbers: int, recipe: str = "light") -> bool:
    """Whether a perturbation file holds what the filter makes of these faces themselves, up to the quantisation."""
    wanted = filter_of(recipe).perturbation(faces()[list(numbers)]).numpy()
    found = Perturbations.decode(data).values()
    return found.shape == wanted.shape and bool(np.abs(found - wanted).mean() < 0.05 * filter_of(recipe).recipe.epsilon)
