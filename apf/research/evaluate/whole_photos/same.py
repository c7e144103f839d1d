"""Which of the recognisers that judge are networks that a filter knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from apf.faces.alignment import CROP
from apf.research.evaluate.targets import Target, embed

if TYPE_CHECKING:
    from apf.guides.guide import Guide

#: Mean cosine of two files' embeddings from which they hold one network; different ones are at right angles.
SAME = 0.9
#: Pictures to compare them by.
PICTURES = 4


def names_of(guides: Sequence[Guide], targets: Sequence[Target]) -> tuple[str, ...]:
    """Return the names of the targets whose network is one of the guides', be it from another file, or taught one of
    them.
    """
    if not guides:
        return ()
    coarse = np.random.default_rng(0).random((PICTURES, 3, 7, 7), np.float32)
    pictures = torch.nn.functional.interpolate(torch.from_numpy(coarse), (CROP, CROP), mode="bicubic").clamp(0, 1)
    known = [(guide.digest, guide.embed(pictures.numpy())) for guide in guides]
    taught = {teacher for guide in guides for teacher in guide.teachers}
    return tuple(
        target.name
        for target in targets
        if target.sha256 in taught
        or any(
            digest == target.sha256 or _agree(embed(target.recogniser, pictures).numpy(), own) for digest, own in known
        )
    )


def _agree(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and float((a * b).sum(1).mean()) >= SAME
