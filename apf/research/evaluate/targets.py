"""Recognisers to protect from: what they say of clean faces, and when they call two photos the same person."""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from apf.guides.torch_recogniser import Recogniser, load_recogniser
from apf.research.model_list import load_recognisers
from apf.research.train.data import DataError, Faces
from apf.research.train.teachers import channels_last, kept_embeddings
from apf.research.train.verification import similarities, threshold

#: Shares of clean pairs of different people that a recogniser may wrongly accept.
FALSE_ACCEPT_RATES = (1e-2, 1e-3)

#: Why there may be fewer faces than a folder holds.
EVERYBODY = "without --all-people only the tenth of the people counts that training keeps apart"

logger = logging.getLogger(__name__)

#: Faces that a recogniser embeds at once.
BATCH = 32


@dataclass(frozen=True)
class Pairs:
    """People with two photos: the first one is protected, the second is what a recogniser knows of the person."""

    #: (N, 3, 112, 112) float32 RGB in [0, 1], both.
    probes: Tensor
    gallery: Tensor
    people: tuple[str, ...]


@dataclass(frozen=True)
class Target:
    """A recogniser with its thresholds, one for each of `FALSE_ACCEPT_RATES`."""

    name: str
    recogniser: Recogniser
    thresholds: tuple[float, ...]
    #: Whether training attacked it; the others are strangers.
    trained_on: bool
    #: Unit embeddings (M, D) of the clean faces that made the thresholds, and who they are.
    clean: Tensor
    people: tuple[str, ...]
    #: SHA-256 of the recogniser's file; empty where it has none.
    sha256: str = ""

    def protection(self, probes: Tensor, gallery: Tensor) -> tuple[float, ...]:
        """Percent of photos whose similarity to the person's other photo is under each threshold.

        Args:
            probes: (N, 3, 112, 112) protected faces in [0, 1].
            gallery: (N, D) unit embeddings of another photo of each.
        """
        similarity = (embed(self.recogniser, probes) * gallery).sum(1)
        return tuple(100 * (similarity < threshold).float().mean().item() for threshold in self.thresholds)


def pairs(faces: Faces, people: int) -> Pairs:
    """Return the first and second photo of the first so many people, by name, who have two.

    Raises:
        DataError: nobody has two photos.
    """
    two = {name: own[:2] for name, own in faces.by_person().items() if len(own) > 1}
    chosen = list(two)[:people]
    if not chosen:
        raise DataError(f"nobody in {len(faces)} photos has two: give at least two photos of some people; {EVERYBODY}")
    first, second = torch.tensor([two[name] for name in chosen]).T
    return Pairs(faces.batch(first), faces.batch(second), tuple(chosen))


def targets(
    models: Path, recognisers: Sequence[Path], faces: Faces, *, cache: Path | None = None, device: str = "cpu"
) -> list[Target]:
    """Return the recognisers of a models.json, and further ONNX files, which count as never trained on.

    Args:
        recognisers: files that are fed as InsightFace's ArcFace models are.
        cache: folder that keeps embeddings of the clean faces between runs.

    Raises:
        WeightsError: a model is missing or damaged.
        DataError: two recognisers share a name, or the faces are of one person.
    """
    trained, unseen = load_recognisers(models, role="train"), load_recognisers(models, role="validate")
    found = {name: (model, models / f"{name}.onnx") for name, model in {**trained, **unseen}.items()}
    for file in recognisers:
        if file.stem in found:
            raise DataError(f"two recognisers are named {file.stem!r}: rename {file}")
        found[file.stem] = (load_recogniser(file), file)
    made = []
    for name, (model, file) in found.items():
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        kept = cache / f"{name}-{model.key[:12]}.pt" if cache else None
        laid_out = model.to(device).to(memory_format=torch.channels_last)
        one = target(name, laid_out, faces, trained_on=name in trained, cache=kept)
        made.append(replace(one, sha256=sha256))
    return made


def target(name: str, recogniser: Recogniser, faces: Faces, *, trained_on: bool, cache: Path | None = None) -> Target:
    """Return a recogniser with thresholds from all clean pairs of different people among the faces.

    Args:
        cache: file that keeps the embeddings between runs; it is used if it holds these very faces.
    """
    known = kept_embeddings(recogniser, faces, cache, name=name, device=str(device_of(recogniser)))
    _, impostors = similarities(known, faces.people)
    if not len(impostors):
        raise DataError(f"all {len(faces)} photos are of one person: thresholds need different people; {EVERYBODY}")
    if len(impostors) * min(FALSE_ACCEPT_RATES) < 1:
        logger.warning("%s: %d pairs of different people are too few for a firm threshold", name, len(impostors))
    thresholds = tuple(threshold(impostors, rate) for rate in FALSE_ACCEPT_RATES)
    return Target(name, recogniser, thresholds, trained_on, known, faces.people)


@torch.no_grad()
def embed(recogniser: nn.Module, faces: Tensor, batch: int = BATCH) -> Tensor:
    """Embeddings (N, D), on the CPU, of faces (N, 3, 112, 112) in [0, 1]; no gradient flows through them."""
    device = device_of(recogniser)
    return torch.cat([recogniser(channels_last(chunk.to(device))).cpu() for chunk in torch.split(faces, batch)])


def device_of(model: nn.Module) -> torch.device:
    """Where a model's weights are."""
    first = next(itertools.chain(model.parameters(), model.buffers()), None)
    return first.device if first is not None else torch.device("cpu")
