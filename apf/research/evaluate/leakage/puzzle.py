"""Undo what a device moved: gradients have much in common, which tells where a tile belongs and how a face was turned.

The transforms of `reductions` hide nothing from whoever has gradients of other faces: a mean or a linear guess will do.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from apf.private.quantise import Float32

#: Of ridge regression, for each gradient that it learns from: values of a tile are about 1.
RIDGE = 2.0


@dataclass(frozen=True, eq=False)
class Puzzle:
    """A linear guess of each tile's place, learnt from gradients that nobody shuffled."""

    #: Pixels a side of a tile.
    tile: int
    #: (values of a tile, places).
    weights: Tensor

    @classmethod
    def of(cls, gradients: Float32, tile: int) -> Puzzle:
        """From gradients (n, c, 112, 112) as they would be seen without the shuffling."""
        tiles = _cut(torch.from_numpy(gradients), tile)  # (n, places, values)
        count, values = len(tiles), tiles.shape[2]
        flat = tiles.flatten(0, 1)
        # The right answers are the places in turn: their sum over all gradients is the sum of the tiles there.
        normal = flat.T @ flat + RIDGE * count * torch.eye(values)
        return cls(tile, torch.linalg.solve(normal, tiles.sum(0).T))

    def solved(self, seen: Float32) -> Float32:
        """Gradients (n, c, 112, 112) with each tile where it most likely belongs, no two at one place."""
        given = torch.from_numpy(seen)
        tiles = _cut(given, self.tile)
        back = torch.empty_like(tiles)
        for guess, own, found in zip(tiles @ self.weights, tiles, back, strict=True):
            found[_places(guess)] = own
        solved: Float32 = F.fold(back.transpose(1, 2), given.shape[2:], self.tile, stride=self.tile).numpy()
        return solved


@dataclass(frozen=True, eq=False)
class Straight:
    """The mean of gradients that nobody turned: (c, 112, 112)."""

    mean: Float32

    @classmethod
    def of(cls, gradients: Float32) -> Straight:
        """From gradients (n, c, 112, 112) as they would be seen without the turning."""
        return cls(gradients.mean(0))

    def solved(self, seen: Float32) -> Float32:
        """Gradients (n, c, 112, 112), each with the colours and the side by which it is most like the mean."""
        ways = list(itertools.product(itertools.permutations(range(3)), (False, True)))
        alike = [(_turned(seen, *way) * self.mean).sum((1, 2, 3)) for way in ways]
        best = np.argmax(alike, 0)
        return np.stack([_turned(face[None], *ways[way])[0] for face, way in zip(seen, best, strict=True)])


def _turned(seen: Float32, colours: tuple[int, ...], mirrored: bool) -> Float32:
    found = seen.reshape(len(seen), -1, 3, *seen.shape[2:])[:, :, list(colours)].reshape(seen.shape)
    return found[..., ::-1] if mirrored else found


def _places(guess: Tensor) -> Tensor:
    """Each tile's place by (tiles, places): the surest is set first, and takes its place from the others."""
    left, found = guess.clone(), torch.empty(len(guess), dtype=torch.int64)
    for _ in range(len(guess)):
        tile, place = divmod(int(left.argmax()), left.shape[1])
        found[tile] = place
        left[tile], left[:, place] = -torch.inf, -torch.inf
    return found


def _cut(gradients: Tensor, tile: int) -> Tensor:
    """(n, places, values)."""
    return F.unfold(gradients, tile, stride=tile).transpose(1, 2)
