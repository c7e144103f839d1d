"""The probe: a small own recogniser whose gradient stands for that of the large ones."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

#: Recognisers whose embedding spaces the probe imitates, each in a block of its own.
BLOCKS = 5
#: Size of a block: the teacher's leading principal components.
BLOCK_DIM = 64
#: BatchNorm's addition to a variance: torch's default.
NORM_EPSILON = 1e-5


class Residual(nn.Module):
    """Two 3x3 convolutions around a shortcut. SiLU is smooth, so gradients carry more than signs."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = conv(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x + self.second(self.first(x)))


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.SiLU())


class Probe(nn.Module):
    """A ResNet of 1.0 M parameters, distilled from several recognisers at once.

    BatchNorm runs on its stored statistics (`eval`), so a face's embedding is its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            conv(3, 32, 2),  # 56
            conv(32, 64, 2),  # 28
            Residual(64),
            Residual(64),
            conv(64, 96, 2),  # 14
            Residual(96),
            Residual(96),
            conv(96, 128, 2),  # 7
            Residual(128),
        )
        self.pool = nn.Sequential(nn.Conv2d(128, 128, 7, groups=128, bias=False), nn.BatchNorm2d(128), nn.Flatten())
        self.head = nn.Linear(128, BLOCKS * BLOCK_DIM)

    def blocks(self, faces: Tensor) -> Tensor:
        """One unit vector a teacher, (B, 5, 64), of faces (B, 3, 112, 112) in [0, 1]."""
        out: Tensor = self.head(self.pool(self.trunk(faces * 2 - 1)))
        return F.normalize(out.view(-1, BLOCKS, BLOCK_DIM).float(), dim=-1)

    def forward(self, faces: Tensor) -> Tensor:
        """Return unit embeddings (B, 320); their cosine is the mean of the blocks' cosines."""
        return self.blocks(faces).flatten(1) / math.sqrt(BLOCKS)


def fused(probe: Probe) -> Probe:
    """Return the same function with each BatchNorm folded into its convolution: a quarter less time. Changes the
    probe.
    """
    for part in probe.modules():
        if isinstance(part, nn.Sequential) and isinstance(part[0], nn.Conv2d) and isinstance(part[1], nn.BatchNorm2d):
            part[0], part[1] = fuse_conv_bn_eval(part[0], part[1]), nn.Identity()
    return probe
