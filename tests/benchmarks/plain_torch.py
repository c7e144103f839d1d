"""The steps of `apf.attack.gradient_steps` as one writes them in plain torch: all differentiable, by autograd.

The same networks, views, road and updates, in the same number; the gradient goes back through the road itself (bicubic
warp, sampling, blur), and past JPEG straight through. For the benchmark's sake alone: pixels differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from apf.attack.bound import LUMA, Bound
from apf.attack.chances import QUALITIES, SOFT, random_view
from apf.attack.gradient_steps import (
    MOMENTUM,
    REACH,
    SOFTNESS,
    TINY,
    Climb,
    start_climb,
    through_jpeg,
)
from apf.attack.jury import verdict
from apf.attack.outline import FACE_SIDE, WARP_FEATHER, face_mask
from apf.attack.perturbation import spread
from apf.attack.protect_face import Task
from apf.faces.alignment import CROP
from apf.faces.geometry import scale_of
from apf.guides.loading import find_source
from apf.guides.torch_guide import TorchGuide, torch_guide
from apf.recipe import Recipe


@dataclass(frozen=True)
class PlainSteps:
    """All steps of a recipe on its guides, one face after the other."""

    recipe: Recipe
    guides: Sequence[TorchGuide]

    @classmethod
    def of(cls, recipe: Recipe) -> PlainSteps:
        return cls(recipe, [torch_guide(find_source(name), "cpu") for name in recipe.guides])

    def __call__(self, tasks: Sequence[Task]) -> list[list[Tensor]]:
        return [self._one(task) for task in tasks]

    def _one(self, task: Task) -> list[Tensor]:
        allowed = Bound.of(self.recipe)
        face = start_climb(task.pixels, task.matrix, self.guides, allowed, start=task.start, grey=task.grey)
        road, latents = Road(face), [torch.from_numpy(one.copy()) for one in face.latents]
        momenta = [torch.zeros_like(one) for one in latents]
        for step in range(self.recipe.steps):
            for one in latents:
                one.requires_grad_(True)
            crop = road.crop(*latents)
            seen = crop.detach().requires_grad_(True)
            total = torch.zeros_like(seen)
            for index in face.rng.permutation(len(self.guides))[:2]:
                cosine = (self.guides[index].network(seen) * torch.from_numpy(face.away[index])).sum()
                (gradient,) = torch.autograd.grad(cosine, seen)
                total += gradient / gradient.abs().mean().clamp_min(TINY)
            found = torch.autograd.grad(crop, latents, total)
            with torch.no_grad():
                for index, one in enumerate(found):
                    momentum = momenta[index].mul_(MOMENTUM).sub_(one / one.abs().mean().clamp_min(TINY))
                    rate = REACH[index] / self.recipe.steps * 2 * (1 - step / self.recipe.steps)
                    size = momentum.abs().mean().clamp_min(TINY)
                    latents[index].add_(rate * torch.tanh(SOFTNESS / size * momentum)).clamp_(-1, 1)
        face.latents = [one.detach().numpy() for one in latents]
        verdict(face, self.guides, face.own, independent=False)
        return latents


class Road:
    """From a face's noise and field to the crop that a recogniser sees."""

    def __init__(self, face: Climb) -> None:
        self.face, canvas = face, face.canvas
        height, width = canvas.pixels.shape[:2]
        self.picture = torch.from_numpy(canvas.pixels).permute(2, 0, 1)[None].float()
        self.bound = torch.from_numpy(canvas.bound)[None, None]
        self.luma = torch.from_numpy(LUMA).view(3, 1, 1)
        self.knots = torch.from_numpy(spread())
        self.fade = torch.from_numpy(face_mask(CROP, WARP_FEATHER))
        self.mask = torch.from_numpy(face_mask(face.latents[0].shape[-1]))
        self.to_template = _grid(canvas.matrix, (width, height), (CROP, CROP))
        self.inside = (self.to_template.abs().amax(-1) <= 1).float()[:, None]
        self.whole = _grid(np.eye(2, 3), (width, height), (width, height))
        turned = np.linalg.inv(canvas.matrix[:, :2]) * (face.allowed.warp * FACE_SIDE)
        self.turned = torch.from_numpy(turned.T).float() * torch.tensor([2 / width, 2 / height])

    def crop(self, noise: Tensor, field: Tensor) -> Tensor:
        rng, image = self.face.rng, self._drawn(noise, field)
        if rng.random() < 0.5:
            levels = image.detach()[0].permute(1, 2, 0).numpy()
            coded = through_jpeg(levels, int(rng.integers(QUALITIES[0], QUALITIES[1] + 1)))
            image = image + (torch.from_numpy(coded.transpose(2, 0, 1))[None] - image).detach()
        view, sigma = random_view(rng), rng.uniform(*SOFT) if rng.random() < 0.5 else 0.0
        scale = min(1.0, scale_of(self.face.canvas.matrix))
        height, width = (max(1, round(side * scale)) for side in image.shape[2:])
        small = F.interpolate(image, (height, width), mode="area")
        back = np.linalg.inv(np.vstack([view @ np.vstack([self.face.canvas.matrix, (0, 0, 1)]), (0, 0, 1)]))[:2]
        seen = F.grid_sample(
            small,
            _grid(back, (CROP, CROP), (image.shape[3], image.shape[2])),
            padding_mode="border",
            align_corners=False,
        )
        return _soft((seen / 255).clamp(0, 1), sigma)

    def _drawn(self, noise: Tensor, field: Tensor) -> Tensor:
        grey = (self.luma * noise).sum(0, keepdim=True)
        noise = (grey + self.face.allowed.chroma * (noise - grey)).clamp(-1, 1) * self.mask
        shift = self.knots @ field @ self.knots.T
        shift = shift / shift.norm(dim=0, keepdim=True).clamp_min(1) * self.fade
        laid = [
            F.grid_sample(one[None], self.to_template, padding_mode="border", align_corners=False) * self.inside
            for one in (noise, shift)
        ]
        places = self.whole + laid[1].permute(0, 2, 3, 1) @ self.turned
        moved = F.grid_sample(self.picture, places, mode="bicubic", padding_mode="border", align_corners=False)
        return (moved.clamp(0, 255) + laid[0] * self.bound).clamp(0, 255)


def _grid(matrix: np.ndarray, size: tuple[int, int], source: tuple[int, int]) -> Tensor:
    """Where in a source of (width, height) each pixel of a picture lies, as `grid_sample` has it."""
    at = np.stack(np.meshgrid(np.arange(size[0]), np.arange(size[1])), -1) @ matrix[:, :2].T + matrix[:, 2]
    return torch.from_numpy((2 * (at + 0.5) / np.array(source) - 1)[None]).float()


def _soft(crop: Tensor, sigma: float) -> Tensor:
    if not sigma:
        return crop
    reach = max(1, round(3 * sigma))
    kernel = torch.exp(-(torch.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).repeat(3, 1, 1, 1)
    padded = F.pad(crop, (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.transpose(2, 3), groups=3)
