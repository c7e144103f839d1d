"""The transfer network: a U-Net from the probe's gradient to a perturbation that fools other recognisers."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Channels at 56, 28, 14 and 7 pixels.
WIDTHS = (32, 64, 96, 128)


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Two convolutions without normalisation: nothing may depend on the batch."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1),
        nn.SiLU(),
        nn.Conv2d(outputs, outputs, 3, 1, 1),
        nn.SiLU(),
    )


class TransferNet(nn.Module):
    """U-Net of 0.9 M parameters. Sees the gradient alone, never the photo.

    It works at half the resolution on four pixels at a time, which costs half as much as at the full one. What it finds
    is added to the perturbation that the gradient stage reached, so that an untrained network passes that on.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(WIDTHS))
        self.stem = block(4 * channels, WIDTHS[0])
        self.down = nn.ModuleList(block(fine, coarse, 2) for fine, coarse in pairs)
        self.up = nn.ModuleList(block(coarse + fine, fine) for fine, coarse in reversed(pairs))
        self.last = nn.Conv2d(WIDTHS[0], 4 * 3, 3, 1, 1)
        self.straight = nn.Conv2d(channels, 3, 1, bias=False)
        with torch.no_grad():
            for weight in (self.last.weight, self.last.bias, self.straight.weight):
                nn.init.zeros_(weight)  # type: ignore[arg-type]
            self.straight.weight[:, :3, 0, 0] = torch.eye(3)

    def forward(self, gradient: Tensor) -> Tensor:
        """(B, C, 112, 112), the reached perturbation first, to (B, 3, 112, 112) in units of epsilon, unbounded."""
        x = self.stem(F.pixel_unshuffle(gradient, 2))
        kept = []
        for down in self.down:
            kept.append(x)
            x = down(x)
        for up in self.up:
            x = up(torch.cat([F.interpolate(x, scale_factor=2, mode="nearest"), kept.pop()], 1))
        out: Tensor = F.pixel_shuffle(self.last(x), 2) + self.straight(gradient)
        return out
