"""The attack without training: whoever holds the probe computes the gradients of photos that it has, and compares."""

from __future__ import annotations

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from apf.evaluate.leakage.reductions import Reduction
from apf.private.quantise import Float32


def alignments(seen: Float32, known: Float32, reduction: Reduction) -> Tensor:
    """Cosines (N, M) of what is seen to gradients that were computed of photos, each less what all have in common.

    Where the device moves things about, the attacker tries all turns and looks for each tile among all tiles.

    Args:
        seen: (N, 6, 112, 112), by the reduction.
        known: (M, 6, 112, 112), whole.
    """
    if reduction.tile:
        return _by_tiles(seen, known, reduction.tile)
    wanted = _centred(known).flatten(1)
    ways = itertools.product(itertools.permutations(range(3)), (False, True)) if reduction.turned else (None,)
    found = [_centred(seen if way is None else _turned(seen, *way)).flatten(1) @ wanted.T for way in ways]
    return torch.stack(found).amax(0)


def _turned(seen: Float32, colours: tuple[int, ...], mirrored: bool) -> Float32:
    found = seen.reshape(len(seen), -1, 3, *seen.shape[2:])[:, :, list(colours)].reshape(seen.shape)
    return found[..., ::-1] if mirrored else found


def _centred(gradients: Float32) -> Tensor:
    """At unit length, (N, 6, 112, 112)."""
    given = torch.from_numpy(np.ascontiguousarray(gradients))
    less = given - given.mean(0)
    unit: Tensor = less / less.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]
    return unit


def _by_tiles(seen: Float32, known: Float32, tile: int) -> Tensor:
    """The mean over tiles of the cosine to the most similar tile; what tiles have in common cannot be told here."""
    wanted = _tiles(torch.from_numpy(known), tile)  # (M, tiles, values)
    flat = wanted.flatten(0, 1).T.contiguous()
    rows = [
        (own @ flat).view(len(own), len(wanted), -1).amax(2).mean(0)
        for own in _tiles(torch.from_numpy(np.ascontiguousarray(seen)), tile)
    ]
    return torch.stack(rows)


def _tiles(gradients: Tensor, tile: int) -> Tensor:
    """At unit length, (N, tiles, values)."""
    cut = F.unfold(gradients, tile, stride=tile).transpose(1, 2)
    return F.normalize(cut - cut.mean(2, keepdim=True), dim=2)
