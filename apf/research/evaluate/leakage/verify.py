"""How often one is matched to another photo of the person, from similarities alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from apf.research.train.verification import threshold

#: Share of pairs of different people that may be taken for one person. It is also what guessing reaches.
FALSE_ACCEPT_RATE = 1e-2


class Told(BaseModel):
    """Whether two things are one person's."""

    model_config = ConfigDict(frozen=True)

    #: Percent of pairs of one person that are found, where 1 % of the others are taken for such: guessing reaches 1.
    tar_percent: float
    #: Chance that a pair of one person is more alike than one of two people: guessing reaches 0.5.
    auc: float

    @classmethod
    def of(cls, genuine: Tensor, impostors: Tensor) -> Told:
        """From similarities (G,) of pairs of one person and (I,) of two; neither may be empty."""
        found = genuine > threshold(impostors, FALSE_ACCEPT_RATE)
        return cls(tar_percent=100 * found.double().mean().item(), auc=auc(genuine, impostors))


def between(similarity: Tensor, people: Sequence[str]) -> Told:
    """Of each person's photos to their others; similarity[i, j] (N, N) is of photo i to photo j of these people."""
    same = _same(people)
    other = ~torch.eye(len(people), dtype=torch.bool)
    return Told.of(similarity[same & other], similarity[~same])


def itself(similarity: Tensor, people: Sequence[str]) -> Told:
    """Of each photo to the very same one."""
    return Told.of(similarity.diagonal(), similarity[~_same(people)])


def auc(positives: Tensor, negatives: Tensor) -> float:
    """Area under the ROC curve of scores (P,) and (N,); ties count half, an empty side makes it 0.5."""
    if not len(positives) or not len(negatives):
        return 0.5
    ordered = negatives.sort().values
    scores = positives.contiguous()
    below = torch.searchsorted(ordered, scores).double()
    not_above = torch.searchsorted(ordered, scores, right=True).double()
    return ((below + not_above) / 2).mean().item() / len(negatives)


def _same(people: Sequence[str]) -> Tensor:
    numbers = {name: number for number, name in enumerate(dict.fromkeys(people))}
    who = torch.tensor([numbers[name] for name in people])
    return who[:, None] == who[None]
