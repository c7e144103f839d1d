"""The attacker's network: from a gradient to the photo, and to what recognisers would say of the photo."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apf.stages.constants import CHANNELS
from apf.stages.probe import BLOCK_DIM, BLOCKS

#: Pixels of a side that one place of the first layer takes together.
CELL = 4
#: Channels at 28, 14 and 7 places a side.
WIDTHS = (64, 128, 192)


class Residual(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = _conv(channels, channels), _conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x + self.second(F.silu(self.first(x))))


class Attacker(nn.Module):
    """A U-Net with two heads, of 3.0 M parameters. It works at a quarter of the resolution, on 16 pixels at a time."""

    def __init__(self) -> None:
        super().__init__()
        fine, middle, coarse = WIDTHS
        self.fine = nn.Sequential(_conv(CHANNELS * CELL**2, fine), nn.SiLU(), Residual(fine))
        self.middle = nn.Sequential(_conv(fine, middle, 2), nn.SiLU(), Residual(middle), Residual(middle))
        self.coarse = nn.Sequential(_conv(middle, coarse, 2), nn.SiLU(), Residual(coarse), Residual(coarse))
        self.pool = nn.Sequential(nn.Conv2d(coarse, coarse, 7, groups=coarse, bias=False), nn.BatchNorm2d(coarse))
        self.head = nn.Linear(coarse, BLOCKS * BLOCK_DIM)
        self.up_middle = nn.Sequential(_conv(coarse + middle, middle), nn.SiLU())
        self.up_fine = nn.Sequential(_conv(middle + fine, fine), nn.SiLU(), Residual(fine))
        self.picture = nn.Conv2d(fine, 3 * CELL**2, 3, padding=1)

    def forward(self, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Return what gradients (B, 6, 112, 112) give away.

        Returns:
            Photos (B, 3, 112, 112) in [0, 1], and unit embeddings (B, 320) such as `apf.stages.probe.Probe` has.
        """
        fine = self.fine(F.pixel_unshuffle(gradients, CELL))
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        blocks = self.head(self.pool(coarse).flatten(1)).view(-1, BLOCKS, BLOCK_DIM).float()
        embeddings = F.normalize(blocks, dim=-1).flatten(1) / BLOCKS**0.5
        up = self.up_middle(torch.cat([F.interpolate(coarse, scale_factor=2.0), middle], 1))
        up = self.up_fine(torch.cat([F.interpolate(up, scale_factor=2.0), fine], 1))
        photos = F.pixel_shuffle(self.picture(up), CELL).float().sigmoid()
        return photos, embeddings


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs))
