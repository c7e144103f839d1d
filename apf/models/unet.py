"""The transfer network: a U-Net from the probe's gradient to a perturbation that fools other recognisers."""

from __future__ import annotations

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
    """U-Net of about 0.9 M parameters. Sees the gradient alone, never the photo."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        sizes = [channels, *WIDTHS]
        self.down = nn.ModuleList(block(sizes[i], sizes[i + 1], 2) for i in range(len(WIDTHS)))
        self.up = nn.ModuleList(block(WIDTHS[i + 1] + WIDTHS[i], WIDTHS[i]) for i in reversed(range(len(WIDTHS) - 1)))
        self.last = nn.Sequential(nn.Conv2d(WIDTHS[0] + channels, 24, 3, 1, 1), nn.SiLU(), nn.Conv2d(24, 3, 3, 1, 1))

    def forward(self, gradient: Tensor) -> Tensor:
        """(B, C, 112, 112) normalised gradients to (B, 3, 112, 112) perturbations in units of epsilon, unbounded."""
        kept = []
        x = gradient
        for down in self.down:
            x = down(x)
            kept.append(x)
        kept.pop()
        for up in self.up:
            x = up(torch.cat([_double(x), kept.pop()], 1))
        out: Tensor = self.last(torch.cat([_double(x), gradient], 1))
        return out


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")
