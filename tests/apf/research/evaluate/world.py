"""A made-up world to measure in: tiny people, tiny recognisers, tiny methods."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from apf.guides.torch_recogniser import Recogniser
from apf.research.evaluate.methods import Method
from apf.research.evaluate.targets import Pairs, Target, pairs, target
from apf.research.train.data import Faces
from tests.apf.stages.test_models import linear_network

PEOPLE = [f"person {number}" for number in range(40)]


def people(folder: Path, names: list[str] = PEOPLE, photos: int = 2) -> Path:
    """PERSON/PICTURE.jpg: a coarse pattern of the person's own with noise, 112x112."""
    for number, person in enumerate(names):
        random = np.random.default_rng(number)
        own = random.integers(40, 216, (7, 7, 3), dtype=np.uint8)
        (folder / person).mkdir(parents=True)
        for photo in range(photos):
            large = np.asarray(Image.fromarray(own).resize((112, 112), Image.Resampling.BICUBIC)).astype(int)
            noisy = (large + random.integers(-12, 13, large.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / person / f"{photo}.jpg", quality=95)
    return folder


def models(folder: Path) -> Path:
    """models.json with two recognisers to train on and one stranger, each a random matrix."""
    folder.mkdir(exist_ok=True)
    index = {}
    for seed, (name, role) in enumerate({"known a": "train", "known b": "train", "stranger": "validate"}.items()):
        data = linear_network(112, dim=16, seed=seed)
        (folder / f"{name}.onnx").write_bytes(data)
        index[name] = {"role": role, "input": {}, "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "models.json").write_text(json.dumps(index))
    return folder


class Corner(nn.Module):
    """Embeds a face by its first few pixels: whoever paints them decides what is recognised."""

    def forward(self, faces: Tensor) -> Tensor:
        return faces[:, :, 0, :4].flatten(1)  # (B, 12)


def faces(count: int = 12, photos: int = 2) -> Faces:
    """Random faces; both photos of a person begin with the same pixels."""
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (count * photos, 3, 112, 112), dtype=torch.uint8, generator=generator)
    pixels[:, :, 0, :4] = pixels[::photos, :, 0, :4].repeat_interleave(photos, 0)
    return Faces(pixels, tuple(f"person {index // photos}" for index in range(count * photos)))


def corner(known: Faces, *, trained_on: bool = False, name: str = "corner") -> Target:
    return target(name, Recogniser(Corner()), known, trained_on=trained_on)


def small() -> tuple[Pairs, list[Target]]:
    """Twelve people, a stranger and a recogniser that was trained on."""
    known = faces()
    return pairs(known, 12), [corner(known), corner(known, trained_on=True, name="trained corner")]


def nothing(name: str = "nothing", key: str = "1") -> Method:
    return Method(name, lambda: torch.zeros_like, key)


def inverting(name: str = "inverting", key: str = "1") -> Method:
    """Turns black to white: no recogniser of this world knows anybody again."""
    return Method(name, lambda: lambda seen: 1 - 2 * seen, key)
