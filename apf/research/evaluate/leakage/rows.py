"""What is reported: a row a reduction, and what to read the rows against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from apf.filters.torch_filter import Filter
from apf.research.evaluate import crops
from apf.research.evaluate.conditions import CONDITIONS, eight_bits
from apf.research.evaluate.crop_pipeline import pasted_road
from apf.research.evaluate.leakage.attacks import Decoded, Leaks, Measured, decoded
from apf.research.evaluate.leakage.clipped import Shown
from apf.research.evaluate.leakage.gradients import gradients_of, seeds_of
from apf.research.evaluate.leakage.reductions import Reduction
from apf.research.evaluate.leakage.verify import Told, between
from apf.research.evaluate.methods import STAGES, Method, ours
from apf.research.evaluate.rivals.types import Perturb
from apf.research.evaluate.targets import Pairs, Target, embed

#: What happens to the protected photo before a recogniser sees it.
SEEN = {name: CONDITIONS[name] for name in ("raw", "both")}
#: What a device can do without telling a server anything.
ALONE = {
    "nothing sent: universal alone": "ours: universal",
    "no server: all but transfer": "ours: gradient + universal",
}


class Kept(BaseModel):
    """The protection that is left: percent not matched at FAR 1e-2 and 1e-3, the mean over the judges."""

    model_config = ConfigDict(frozen=True)

    raw: tuple[float, ...]
    both: tuple[float, ...]
    psnr_db: float | None


class Row(BaseModel):
    """One reduction."""

    model_config = ConfigDict(frozen=True)

    name: str
    #: Of the six numbers a pixel: how many bits they take together.
    bits_a_pixel: int
    protection: Kept
    leaks: Leaks


class Ceiling(BaseModel):
    """What the clean photos themselves give, and what is reached by knowing nothing."""

    model_config = ConfigDict(frozen=True)

    #: Photo to photo, by the probe and by what the attackers imitate.
    probe: Told
    imitated: Told
    #: The photo itself in the decoder's place, and the mean of all faces that attackers learn from.
    photo: Decoded
    mean_face: Decoded


class Report(BaseModel):
    """Everything."""

    model_config = ConfigDict(frozen=True)

    command: str
    #: Processor, threads and torch.
    machine: str
    #: Photos and people that attackers learnt from, and that they were measured on.
    learnt: tuple[int, int]
    measured: tuple[int, int]
    judges: tuple[str, ...]
    rows: tuple[Row, ...]
    alone: dict[str, Kept]
    ceiling: Ceiling
    clipped: tuple[Shown, ...]


def through(filter_: Filter, reduction: Reduction) -> Perturb:
    """Return the road of private mode under this reduction: device, server, device."""

    def perturb(faces: Tensor) -> Tensor:
        seeds = seeds_of(eight_bits(faces))
        seen = reduction.seen(gradients_of(filter_, faces), seeds)
        deltas = filter_.perturbation_from(torch.from_numpy(seen)).cpu().numpy()
        return torch.from_numpy(reduction.undone(deltas, seeds).copy())

    return perturb


def protection(method: Method, pairs: Pairs, judges: Sequence[Target]) -> Kept:
    """Return what the judges make of the protected photos."""
    (row,) = crops.evaluate(pairs, judges, [method], SEEN, sources={})
    rates = {
        name: tuple(_mean([verdict.protection[i].percent for verdict in seen.recognisers.values()]) for i in range(2))
        for name, seen in row.conditions.items()
    }
    return Kept(raw=rates["raw"], both=rates["both"], psnr_db=row.psnr_db)


def kept(filter_: Filter, reduction: Reduction, pairs: Pairs, judges: Sequence[Target]) -> Kept:
    """Return the protection under a reduction."""
    return protection(
        Method(reduction.name, lambda: pasted_road(through(filter_, reduction), filter_.recipe), ""), pairs, judges
    )


def alone(filter_: Filter, pairs: Pairs, judges: Sequence[Target]) -> dict[str, Kept]:
    """Return the protection of what a device can do by itself."""
    methods = {method.name: method for method in ours([filter_.recipe], str(filter_.device))}
    return {title: protection(methods[name], pairs, judges) for title, name in ALONE.items() if name in STAGES}


def ceiling(filter_: Filter, who: Measured, mean_face: Tensor, pairs: Pairs, judges: Sequence[Target]) -> Ceiling:
    """Return what the rows are read against.

    Args:
        mean_face: (3, 112, 112) in [0, 1], of those whom attackers learn from.
    """
    faces = who.sent.faces
    own = embed(filter_.probe, faces.batch(torch.arange(len(faces))))
    return Ceiling(
        probe=between(own @ own.T, faces.people),
        imitated=between(who.said @ who.said.T, faces.people),
        photo=decoded(pairs.probes, pairs, judges),
        mean_face=decoded(mean_face.expand_as(pairs.probes), pairs, judges),
    )


def _mean(rates: Sequence[float]) -> float:
    return sum(rates) / len(rates)
