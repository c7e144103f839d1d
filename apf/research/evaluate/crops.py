"""Protection of aligned crops: every method, seen by every recogniser, under every condition."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from tqdm import tqdm

from apf.research.evaluate.conditions import CONDITIONS, SOURCES, Condition, eight_bits
from apf.research.evaluate.identification import gallery, misidentified
from apf.research.evaluate.methods import Method
from apf.research.evaluate.metrics import Rate, psnr, ssim
from apf.research.evaluate.rivals.types import Perturb
from apf.research.evaluate.targets import FALSE_ACCEPT_RATES, Pairs, Target, embed

#: Faces that a method is given at once, so that a long one shows its progress.
BATCH = 20

#: Gives the protected faces (N, 3, 112, 112) uint8 of a method, by computing them or from an earlier run.
Protect = Callable[[Method, Tensor], Tensor]


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True)


class Verdict(_Result):
    """What one recogniser makes of one method's faces under one condition."""

    #: Share of people not matched to their other photo, for each of `FALSE_ACCEPT_RATES`.
    protection: tuple[Rate, ...]
    #: Share of people whose nearest photo in the gallery is someone else's.
    rank1: Rate


class Mean(_Result):
    """Verdicts averaged over recognisers, in percent."""

    protection: tuple[float, ...]
    rank1: float


class Seen(_Result):
    """One condition of a row: each recogniser by name, and the means over those never and ever trained on."""

    recognisers: dict[str, Verdict]
    unseen: Mean | None
    trained: Mean | None


class Timing(_Result):
    """Wall time of one face in milliseconds, over several runs of the same faces."""

    minimum_ms: float
    median_ms: float
    faces: int
    runs: int


class Row(_Result):
    """One method."""

    method: str
    #: The recipe whose point on our curve this is; empty for a rival or a part of ours.
    recipe: str
    #: None where the face did not change.
    psnr_db: float | None
    ssim: float
    conditions: dict[str, Seen]
    timing: Timing | None = None


@dataclass(frozen=True)
class Known:
    """What a recogniser knows before any photo is protected."""

    target: Target
    #: (N, D): the other photo of each person who is looked for.
    own: Tensor
    #: (G, D), as `identification.gallery` gives it.
    gallery: Tensor

    @classmethod
    def of(cls, target: Target, pairs: Pairs) -> Known:
        own = embed(target.recogniser, pairs.gallery)
        return cls(target, own, gallery(target, own, pairs.people))


def evaluate(
    pairs: Pairs,
    targets: Sequence[Target],
    methods: Iterable[Method],
    conditions: Mapping[str, Condition] = CONDITIONS,
    sources: Mapping[str, Condition] = SOURCES,
) -> list[Row]:
    """Return a row for each method: how often recognisers fail to match the protected photo to another of the person.

    Args:
        pairs: the photos to protect, and the clean ones that they are compared with.
        targets: the recognisers, with thresholds from clean faces.
        methods: what makes the perturbations; each is built when its turn comes.
        conditions: what happens to the protected photos, by name.
        sources: what is done to the photos before they are protected, by name: further conditions.
    """
    return list(finished(pairs, targets, methods, conditions, sources))


def finished(
    pairs: Pairs,
    targets: Sequence[Target],
    methods: Iterable[Method],
    conditions: Mapping[str, Condition],
    sources: Mapping[str, Condition],
    protect: Protect | None = None,
) -> Iterator[Row]:
    """Yield the rows of `evaluate`, each as soon as it is there; `protect` may know the faces from an earlier run."""
    known = [Known.of(target, pairs) for target in targets]
    clean = eight_bits(pairs.probes)
    for method in methods:
        pixels, *others = torch.split((protect or protected)(method, before(pairs, sources)), len(clean))
        yield _row(method, clean, pixels, known, conditions, dict(zip(sources, others, strict=True)))


def before(pairs: Pairs, sources: Mapping[str, Condition]) -> Tensor:
    """All faces that a method protects: the photos as they are, then each source's, (N + N * sources, 3, 112, 112)."""
    clean = eight_bits(pairs.probes)
    return torch.cat([pairs.probes, *(change(clean).float() / 255 for change in sources.values())])


def protected(method: Method, faces: Tensor) -> Tensor:
    """Return the method's faces as they leave: perturbed and rounded to 8 bits.

    Args:
        faces: (N, 3, 112, 112) float32 in [0, 1].

    Returns:
        (N, 3, 112, 112) uint8.
    """
    perturb: Perturb = method.build()
    chunks = tqdm(torch.split(faces, BATCH), desc=method.name, unit="batch", leave=False)
    return torch.cat([eight_bits(chunk + perturb(chunk).cpu()) for chunk in chunks])


def fingerprint(*parts: Tensor | str) -> str:
    """32 hex digits that change with any of the parts."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.contiguous().numpy().tobytes() if isinstance(part, Tensor) else part.encode()
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()[:32]


def _row(
    method: Method,
    clean: Tensor,
    pixels: Tensor,
    known: Sequence[Known],
    conditions: Mapping[str, Condition],
    others: Mapping[str, Tensor],
) -> Row:
    return Row(
        method=method.name,
        recipe=method.recipe,
        psnr_db=psnr(clean, pixels),
        ssim=ssim(clean, pixels),
        conditions={name: _seen(change(pixels), known) for name, change in conditions.items()}
        | {name: _seen(own, known) for name, own in others.items()},
    )


def _seen(pixels: Tensor, known: Sequence[Known]) -> Seen:
    faces = pixels.float() / 255
    verdicts = {one.target.name: _verdict(one, faces) for one in known}
    strangers = [verdicts[one.target.name] for one in known if not one.target.trained_on]
    trained = [verdicts[one.target.name] for one in known if one.target.trained_on]
    return Seen(recognisers=verdicts, unseen=_mean(strangers), trained=_mean(trained))


def _verdict(known: Known, faces: Tensor) -> Verdict:
    queries = embed(known.target.recogniser, faces)  # (N, D)
    similarity = (queries * known.own).sum(1)
    return Verdict(
        protection=tuple(Rate.of(similarity < threshold) for threshold in known.target.thresholds),
        rank1=Rate.of(misidentified(queries, known.gallery)),
    )


def _mean(verdicts: Sequence[Verdict]) -> Mean | None:
    if not verdicts:
        return None
    rates = [[verdict.protection[i].percent for verdict in verdicts] for i in range(len(FALSE_ACCEPT_RATES))]
    return Mean(
        protection=tuple(sum(rate) / len(rate) for rate in rates),
        rank1=sum(verdict.rank1.percent for verdict in verdicts) / len(verdicts),
    )
