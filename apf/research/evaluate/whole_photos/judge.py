"""What recognisers say of faces, compared with clean photos of the same people, and with each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from apf.research.evaluate.targets import Target, embed
from apf.research.evaluate.whole_photos.subjects import Subject


class Verdict(BaseModel):
    """In percent, for each of `FALSE_ACCEPT_RATES`; of one recogniser, or the mean of several."""

    model_config = ConfigDict(frozen=True)

    #: Pairs with another, clean photo of the person that are not matched.
    protection: tuple[float, ...]
    #: Photos that are not matched to the mean of the person's other photos.
    template: tuple[float, ...]
    #: Pairs of two protected photos of one person that are matched; None where there is no such pair.
    together: tuple[float, ...] | None
    #: Photos whose nearest in the gallery, the person's other photos and strangers, is the person.
    found: float

    @classmethod
    def mean(cls, several: Sequence[Verdict]) -> Verdict | None:
        """Over recognisers; None of none."""
        if not several:
            return None
        together = [one.together for one in several if one.together is not None]
        return cls(
            protection=_means([one.protection for one in several]),
            template=_means([one.template for one in several]),
            together=_means(together) if together else None,
            found=float(np.mean([one.found for one in several])),
        )


class Judge:
    """Compares faces with the clean photos of all subjects.

    Args:
        strangers: unit embeddings (M, D) of people who are none of the subjects, by the recogniser's name.
    """

    def __init__(
        self, subjects: Sequence[Subject], targets: Sequence[Target], strangers: Mapping[str, Tensor] | None = None
    ) -> None:
        people = np.array([subject.person for subject in subjects])
        crops = torch.stack([subject.crop for subject in subjects])
        #: (N, N): whether two are different photos of one person.
        self._pairs = torch.from_numpy((people[:, None] == people[None]) & ~np.eye(len(people), dtype=np.bool_))
        self.targets = targets
        self._known = {target.name: embed(target.recogniser, crops) for target in targets}
        self.strangers = strangers or {}

    def pairs(self, keep: Sequence[int]) -> int:
        """How many pairs the subjects at these positions make with their other photos."""
        return int(self._pairs[list(keep)].sum())

    def verdicts(self, crops: Sequence[Tensor | None]) -> dict[str, Verdict]:
        """Each recogniser's word on the crops, one for each subject, (3, 112, 112) in [0, 1]; None are left out."""
        keep = [i for i, crop in enumerate(crops) if crop is not None]
        if not keep:
            return {}
        probes = torch.stack([crop for crop in crops if crop is not None])
        return {target.name: self._verdict(target, embed(target.recogniser, probes), keep) for target in self.targets}

    def _verdict(self, target: Target, probes: Tensor, keep: list[int]) -> Verdict:
        known, pairs = self._known[target.name], self._pairs[keep]
        similar = probes @ known.T  # (K, N)
        templates = F.normalize(pairs.float() @ known, dim=1)
        together = (probes @ probes.T)[self._pairs[keep][:, keep].triu()]
        nearest = similar.masked_fill(~pairs, -2).max(1).values
        strangers = self.strangers.get(target.name)
        others = (probes @ strangers.T).max(1).values if strangers is not None and len(strangers) else nearest - 1
        limits = target.thresholds
        return Verdict(
            protection=tuple(_percent(similar[pairs] < limit) for limit in limits),
            template=tuple(_percent((probes * templates).sum(1) < limit) for limit in limits),
            together=tuple(_percent(together >= limit) for limit in limits) if len(together) else None,
            found=_percent(nearest >= others),
        )


def _percent(hits: Tensor) -> float:
    return 100 * hits.float().mean().item()


def _means(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(float(mean) for mean in np.mean(rows, 0))
