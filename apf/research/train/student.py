"""A guide of our own: a network whose stages end where a teacher's maps lie, so that each learns its map by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Hidden channels of a stage, in channels of its input: where the map keeps its size, where it is halved, at the end.
KEEPS, HALVES, ENDS = 3, 5, 6
#: Maps of this many pixels to a side are dear: as many hidden channels as where the size is kept. The first stage's.
LARGE, FIRST = 40, 96
#: Channels of a face.
COLOURS = 3
#: Directions in which a map varies by less than this share of its mean variance are not amplified further.
FLOOR = 0.01


@dataclass(frozen=True)
class Stage:
    """From one map of the teacher to the next; a side of 1 is the embedding."""

    inputs: int
    outputs: int
    side_in: int
    side_out: int
    #: Whether the teacher adds to its map here.
    residual: bool = False
    #: Whether the teacher weighs channels by their means here (squeeze and excitation).
    gated: bool = False

    @property
    def strides(self) -> tuple[int, int]:
        """Of the first convolution and of the depthwise one."""
        if self.inputs == COLOURS:
            return 2, max(1, round(self.side_in / self.side_out / 2))
        return 1, 1 if self.side_out == 1 else round(self.side_in / self.side_out)

    @property
    def halves(self) -> bool:
        """Whether a student's stage gives a map of this size."""
        side = -(-self.side_in // self.strides[0])
        return self.side_out in (1, -(-side // self.strides[1]))


class Part(nn.Module):
    """One stage: 1x1 (the first: 3x3), depthwise, 1x1, with ReLU between; at the end, a kernel of the map's size.

    Inputs are whitened and outputs scaled by fixed statistics of the teacher's maps (`settle`), folded into the weights
    as they are used: every stage then learns numbers of size one.
    """

    white: Tensor
    middle: Tensor
    scale: Tensor
    mean: Tensor

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage
        hidden = _hidden(stage)
        self.first, last = stage.inputs == COLOURS, stage.side_out == 1
        kernel = 3 if self.first else 1
        self.strides = stage.strides
        self.expand = nn.Conv2d(stage.inputs, hidden, kernel, self.strides[0], kernel // 2)
        spot = stage.side_in if last else 3
        self.depth = nn.Conv2d(hidden, hidden, spot, 1, 0 if last else 1, groups=hidden)
        narrow, wide = max(8, stage.outputs // 4), stage.outputs
        gate = nn.Sequential(nn.Conv2d(wide, narrow, 1), nn.ReLU(), nn.Conv2d(narrow, wide, 1))
        self.gate = gate if stage.gated else None
        self.project = nn.Conv2d(hidden, stage.outputs, 1)
        for conv in (self.expand, self.depth):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.project.weight, std=0.3 * hidden**-0.5)
        nn.init.zeros_(self.project.bias)  # type: ignore[arg-type]
        self.register_buffer("white", torch.eye(stage.inputs))
        self.register_buffer("middle", torch.zeros(stage.inputs))
        self.register_buffer("scale", torch.ones(stage.outputs))
        self.register_buffer("mean", torch.zeros(stage.outputs))

    @torch.no_grad()
    def settle(self, inputs: Tensor, change: Tensor) -> None:
        """Take the statistics of the teacher's map (B, C, h, w) before this stage, and of what the stage gives."""
        if not self.first:
            flat = inputs.movedim(1, 0).flatten(1).double()
            self.middle.copy_(flat.mean(1))
            values, vectors = torch.linalg.eigh(torch.cov(flat))
            strength = (values.clamp(min=0) + FLOOR * values.mean()).rsqrt()
            self.white.copy_(vectors @ torch.diag(strength) @ vectors.T)
        out = change.movedim(1, 0).flatten(1)
        spread = out.std(1)
        self.scale.copy_(spread.clamp(min=FLOOR * spread.mean()))  # a channel may be the same everywhere
        self.mean.copy_(out.mean(1))

    def folded(self) -> list[tuple[Tensor, Tensor]]:
        """Weights and biases of the three convolutions as they are used."""
        expand, bias = both(self.expand)
        if not self.first:
            expand = torch.einsum("oihw,ij->ojhw", expand, self.white)
            bias = bias - expand[:, :, 0, 0] @ self.middle
        weight, offset = both(self.project)
        project = weight * self.scale.view(-1, 1, 1, 1), offset * self.scale + self.mean
        return [(expand, bias), both(self.depth), project]

    def change(self, x: Tensor) -> Tensor:
        """Return what the stage adds to its map, or the next map where it adds nothing."""
        expand, depth, project = self.folded()
        edge, around = int(self.expand.padding[0]), int(self.depth.padding[0])
        x = F.relu(F.conv2d(x, *expand, self.strides[0], edge))
        x = F.conv2d(x, *depth, 1, around, 1, self.depth.groups)
        if (stride := self.strides[1]) > 1:  # a strided depthwise convolution takes ten times as long backwards
            x = x[:, :, ::stride, ::stride]
        if self.stage.side_out > 1:
            x = F.relu(x)
        x = F.conv2d(x, *project)
        return x if self.gate is None else x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.change(x) if self.stage.residual else self.change(x)


def _hidden(stage: Stage) -> int:
    if stage.inputs == COLOURS:
        return FIRST
    if stage.side_out == 1:
        return ENDS * stage.inputs
    halves = stage.side_out < stage.side_in < LARGE
    return (HALVES if halves else KEEPS) * stage.inputs


def both(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that has both."""
    return cast(Tensor, layer.weight), cast(Tensor, layer.bias)


class Student(nn.Module):
    """Faces, fed as the teacher's spec says, (B, 3, h, w), to embeddings (B, D) in the teacher's own space."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(Part(stage) for stage in stages)

    def maps(self, fed: Tensor) -> list[Tensor]:
        """Every stage's map; the embedding, (B, D, 1, 1), is the last."""
        found = []
        for part in self.parts:
            fed = part(fed)
            found.append(fed)
        return found

    @property
    def each(self) -> list[Part]:
        """Its stages, in order."""
        return [cast(Part, part) for part in self.parts]

    def forward(self, fed: Tensor) -> Tensor:
        return self.maps(fed)[-1].flatten(1)
