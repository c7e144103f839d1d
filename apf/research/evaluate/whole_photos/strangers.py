"""People among whom a recogniser looks for the subjects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from apf.research.evaluate.targets import Target, device_of, embed
from apf.research.evaluate.whole_photos.subjects import Subject
from apf.research.train.data import Faces
from apf.research.train.teachers import kept_embeddings

#: How many.
COUNT = 1000


def strangers(
    targets: Sequence[Target], faces: Faces, subjects: Sequence[Subject], *, count: int = COUNT, cache: Path
) -> dict[str, Tensor]:
    """Each recogniser's unit embeddings of one photo of each stranger, by its name.

    Whoever most recognisers take for a subject may be one, under whatever name, and is left out.

    Args:
        faces: of whom strangers are taken, evenly over the list.
        cache: folder that keeps embeddings between runs.
    """
    first = [photos[0] for photos in faces.by_person().values()]
    spread = torch.linspace(0, len(first) - 1, min(count, len(first))).round().long().tolist()
    some = faces.select([first[i] for i in spread])
    crops = torch.stack([subject.crop for subject in subjects])
    found, votes = {}, torch.zeros(len(some))
    for target in targets:
        file = cache / f"strangers-{target.name}-{target.recogniser.key[:12]}.pt"
        device = str(device_of(target.recogniser))
        own = kept_embeddings(target.recogniser, some, file, name=target.name, device=device)
        votes += (own @ embed(target.recogniser, crops).T).max(1).values >= max(target.thresholds)
        found[target.name] = own
    return {name: own[votes <= len(targets) / 2] for name, own in found.items()}
