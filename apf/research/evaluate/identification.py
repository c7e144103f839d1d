"""Rank-1 identification: whom a recogniser takes a protected photo for, among everybody it knows."""

from __future__ import annotations

import torch
from torch import Tensor

from apf.research.evaluate.targets import Target


def gallery(target: Target, known: Tensor, people: tuple[str, ...]) -> Tensor:
    """One clean photo a person: those who are looked for, then a distractor for everybody else.

    Args:
        known: (N, D) unit embeddings of another photo of each person who is looked for.
        people: their names; whoever else `target` knows becomes a distractor, by the first photo.

    Returns:
        (G, D) with G >= N; row i is that of person i.
    """
    looked_for = set(people)
    first: dict[str, int] = {}
    for index, person in enumerate(target.people):
        if person not in looked_for:
            first.setdefault(person, index)
    return torch.cat([known, target.clean[list(first.values())].to(known)])


def misidentified(queries: Tensor, gallery: Tensor) -> Tensor:
    """Return whether each query's nearest entry is another person's, (N,) bool; a tie counts as found.

    Args:
        queries: (N, D) unit embeddings; query i is of the person of gallery row i.
        gallery: (G, D) unit embeddings, G >= N.
    """
    similarity = queries @ gallery.T  # (N, G)
    own = similarity.diagonal()
    return similarity.max(1).values > own
