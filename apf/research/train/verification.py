"""How well embeddings tell people apart, and from which similarity on two faces count as one person's."""

from __future__ import annotations

import torch
from torch import Tensor


def similarities(embeddings: Tensor, people: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Return the similarity of each pair of unit embeddings (N, D): (G,) of pairs of one person, and (I,) of two
    people.
    """
    known = {name: number for number, name in enumerate(dict.fromkeys(people))}
    who = torch.tensor([known[name] for name in people])
    same, similarity = who[:, None] == who[None], embeddings @ embeddings.T
    return similarity[same.triu(1)], similarity[(~same).triu(1)]


def threshold(impostors: Tensor, false_accept_rate: float) -> float:
    """Return the similarity that so large a share of the impostor pairs (I,) exceeds; I must not be 0."""
    rank = max(1, round(len(impostors) * (1 - false_accept_rate)))
    return impostors.kthvalue(rank).values.item()


@torch.no_grad()
def verification(embeddings: Tensor, people: tuple[str, ...]) -> dict[str, float]:
    """Return true accept rates at false accept rates of 1e-2 and 1e-3 over all pairs of these faces."""
    genuine, impostor = similarities(embeddings, people)
    return {f"tar_at_far_{far:g}": (genuine > threshold(impostor, far)).float().mean().item() for far in (1e-2, 1e-3)}
