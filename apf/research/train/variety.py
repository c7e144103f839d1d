"""Faces in many forms, for a student to be told of by its teacher: new people from pairs, other light, focus, noise."""

from __future__ import annotations

import torch
from torch import Tensor

from apf.research.train import augment
from apf.research.train.data import Faces
from apf.research.train.loop import draw

#: Shares of faces that are blends of two, that have another's half, and that are sharpened, softened or noisy.
BLENDED, HALVED, SHARPENED, SOFTENED, NOISY = 0.25, 0.1, 0.35, 0.2, 0.5
#: Largest amount of the unsharp mask, and noise of each kind.
SHARPEST, LARGEST_NOISE = 2.0, 12 / 255
AFFINE_STD, LIGHT_STD = 0.035, 0.25
GREY, CODED = 0.05, 0.25


def various(faces: Faces, batch: int, generator: torch.Generator) -> Tensor:
    """Return a batch (B, 3, 112, 112) in [0, 1]."""
    one, other = (faces.batch(draw(len(faces), batch, generator)) for _ in range(2))
    share = 0.3 + 0.4 * _each(batch, generator)
    found = _some(BLENDED, one, share * one + (1 - share) * other, generator)
    found = _some(HALVED, found, _half_of(found, other, generator), generator)
    found = augment.affine(augment.flip(found, generator), AFFINE_STD, generator)
    found = relit(found, generator)
    soft = augment.resize(found, 0.35 + 0.5 * augment.uniform(generator))
    found = _some(SOFTENED, found, soft, generator)
    fine = augment.resize(found, 0.5)
    found = _some(SHARPENED, found, found + SHARPEST * _each(batch, generator) * (found - fine), generator).clamp(0, 1)
    found = _some(GREY, found, augment.luma(found), generator)
    found = _some(NOISY, found, noisy(found, generator), generator)
    if augment.uniform(generator) < CODED:
        found = augment.jpeg(found, int(50 + 45 * augment.uniform(generator)))
    return found


def relit(faces: Tensor, generator: torch.Generator) -> Tensor:
    """Each face under light of its own: contrast, colour, gamma, and a slope of brightness across it."""
    batch = len(faces)
    found = augment.light(faces, LIGHT_STD, generator)
    found = found.clamp(min=1e-4).pow(torch.exp(0.3 * augment.normal((batch, 1, 1, 1), generator, faces)))
    line = torch.linspace(-1, 1, faces.shape[-1])
    across, down = 0.15 * augment.normal((2, batch, 1, 1, 1), generator, faces)
    shade: Tensor = 1 + across * line + down * line[:, None]
    return (found * shade).clamp(0, 1)


def noisy(faces: Tensor, generator: torch.Generator) -> Tensor:
    """Bounded noise of a random grain on each face."""
    grain = (1.0, 0.5, 0.25)[int(draw(3, 1, generator))]
    noise = augment.normal((len(faces), 3, *(round(grain * side) for side in faces.shape[2:])), generator, faces)
    size = LARGEST_NOISE * _each(len(faces), generator)
    return (faces + size * torch.tanh(augment.enlarged(noise, faces.shape[-1]))).clamp(0, 1)


def _half_of(faces: Tensor, other: Tensor, generator: torch.Generator) -> Tensor:
    """Return the right or lower half from other faces, softly joined."""
    line = torch.linspace(-8, 8, faces.shape[-1]).sigmoid()
    mask = line if augment.uniform(generator) < 0.5 else line[:, None]
    return faces * (1 - mask) + other * mask


def _each(batch: int, generator: torch.Generator) -> Tensor:
    return torch.rand(batch, 1, 1, 1, generator=generator)


def _some(share: float, faces: Tensor, changed: Tensor, generator: torch.Generator) -> Tensor:
    return torch.where(_each(len(faces), generator) < share, changed, faces)
