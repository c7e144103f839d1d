"""The released APF: a U-Net on the probe's ten-step noise, plus one universal perturbation, for one server model.

Own code, from a description of the method. Noise and outputs are in units of epsilon, within [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from apf.faces.alignment import CROP
from apf.research.evaluate.rivals.loop import (
    BATCH,
    ascend,
    embed,
    gradient_of,
    in_batches,
    ready,
    squared_distance,
    uniform_noise,
)
from apf.research.evaluate.rivals.types import Perturb
from apf.research.evaluate.targets import device_of
from apf.research.train.teachers import channels_last

#: The probe's attack: steps, and their length in units of epsilon (2/255 of 8/255).
STEPS, STEP = 10, 0.25
#: While the noise is made, the probe sees faces turned and rescaled by up to so much.
ROTATION_DEGREES, RESCALE = 15.0, 0.1

#: Channels at 56, 28, 14 and 7 pixels.
WIDTHS = (64, 128, 256, 512)


class NoiseUNet(nn.Module):
    """U-Net of 3.47 M parameters (3,471,811), without normalisation. Sees the noise alone."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (3, *WIDTHS)
        self.down = nn.ModuleList(nn.Conv2d(sizes[i], sizes[i + 1], 3, 2, 1) for i in range(4))
        # Upwards each takes the layer below and, but for the lowest, the skip of the same size.
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, output_padding=1)
            for inputs, outputs in ((512, 256), (512, 128), (256, 64), (128, 3))
        )

    def forward(self, noise: Tensor) -> Tensor:
        """(B, 3, 112, 112) to (B, 3, 112, 112), unbounded."""
        skips: list[Tensor] = []
        x = noise
        for down in self.down:
            x = F.leaky_relu(down(x), 0.2)
            skips.append(x)
        skips.pop()
        for up in self.up[:-1]:
            x = torch.cat([F.leaky_relu(up(x), 0.2), skips.pop()], 1)
        out: Tensor = self.up[-1](x)
        return out


class ReleasedApf(nn.Module):
    """unet(noise) + conv1x1(alpha * UAP + beta), cut to the bound."""

    uap: Tensor

    def __init__(self, uap: Tensor | None = None) -> None:
        """Args: uap: (3, 112, 112) in units of epsilon; zero until weights are loaded."""
        super().__init__()
        self.unet = NoiseUNet()
        self.register_buffer("uap", torch.zeros(3, CROP, CROP) if uap is None else uap.clone())
        # Half of the bound: at the full one the cut would leave no gradient in one direction.
        self.alpha = nn.Parameter(torch.tensor(0.5))
        self.beta = nn.Parameter(torch.tensor(0.0))
        self.mix = nn.Conv2d(3, 3, 1)
        nn.init.dirac_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)  # type: ignore[arg-type]

    def forward(self, noise: Tensor) -> Tensor:
        """(B, 3, 112, 112) noise to (B, 3, 112, 112) perturbations, both in [-1, 1]."""
        universal = self.mix((self.alpha * self.uap + self.beta)[None])
        out: Tensor = (self.unet(noise) + universal).clamp(-1, 1)
        return out


def probe_noise(
    probe: nn.Module, faces: Tensor, others: Tensor, draws: Sequence[Generator], *, epsilon: float
) -> Tensor:
    """Ten signed steps that raise the probe's squared L2 distance to the other photos, from a random start.

    Args:
        faces: (B, 3, 112, 112) in [0, 1].
        others: (B, 3, 112, 112) in [0, 1], another photo of each person, or the same.
        draws: a generator for each face.

    Returns:
        (B, 3, 112, 112) in [-1, 1], taken after clipping to the pixel range, as released.
    """
    goal = embed(probe, others)
    direction = gradient_of(lambda x: squared_distance(probe(channels_last(turned(x, draws))), goal))
    start = uniform_noise(faces, draws, epsilon)
    return ascend(faces, start, direction, epsilon=epsilon, steps=STEPS, step=STEP * epsilon) / epsilon


def turned(faces: Tensor, draws: Sequence[Generator]) -> Tensor:
    """Each face turned by up to 15 degrees and rescaled by up to a tenth, by its own generator."""
    random = torch.stack([2 * torch.rand(2, generator=draw) - 1 for draw in draws])  # (B, 2) in [-1, 1]
    angle, scale = random[:, 0] * math.radians(ROTATION_DEGREES), 1 + RESCALE * random[:, 1]
    a, b, zero = scale * angle.cos(), scale * angle.sin(), torch.zeros_like(angle)
    theta = torch.stack([torch.stack([a, -b, zero], 1), torch.stack([b, a, zero], 1)], 1)  # (B, 2, 3)
    grid = F.affine_grid(theta.to(faces), list(faces.shape), align_corners=False)
    return F.grid_sample(faces, grid, mode="bilinear", padding_mode="border", align_corners=False)


def released_apf(model: ReleasedApf, probe: nn.Module, epsilon: float, *, seed: int, batch: int = BATCH) -> Perturb:
    """Return the trained model as a rival.

    Training raises the distance to a second photo of the person. Whoever protects a photo may have no other, and the
    one that it will be compared with least of all, so here the second photo is the photo itself, and the random start
    lends the noise its first direction.

    Args:
        model: from `train_released`.
        probe: the recogniser that its training took the noise from, on the same device.
    """
    ready([probe])
    model.eval().requires_grad_(False)

    @torch.no_grad()
    def attack(faces: Tensor, draws: list[Generator]) -> Tensor:
        noise = probe_noise(probe, faces, faces, draws, epsilon=epsilon)
        perturbation: Tensor = epsilon * model(channels_last(noise))
        return perturbation

    return in_batches(attack, epsilon=epsilon, seed=seed, batch=batch, device=device_of(probe))
