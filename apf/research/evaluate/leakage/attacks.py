"""The attacks on one reduction: decode the photo, link gradients, and compare with the gradients of other photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from apf.private.quantise import Float32
from apf.research.evaluate.conditions import eight_bits
from apf.research.evaluate.leakage.attacker import Attacker
from apf.research.evaluate.leakage.comparing import alignments
from apf.research.evaluate.leakage.gradients import Sent, seeds_of
from apf.research.evaluate.leakage.training import BATCH, Look
from apf.research.evaluate.leakage.verify import Told, between, itself
from apf.research.evaluate.metrics import psnr, ssim
from apf.research.evaluate.targets import Pairs, Target, embed
from apf.research.train.teachers import channels_last


class Decoded(BaseModel):
    """How good the pictures are that are made of gradients."""

    model_config = ConfigDict(frozen=True)

    ssim: float
    psnr_db: float | None
    #: Percent that a recogniser takes for another clean photo of the person, and for the very photo, at FAR 1e-2.
    other_photo: float
    same_photo: float


class Leaks(BaseModel):
    """What one reduction gives away, by what was tried."""

    model_config = ConfigDict(frozen=True)

    decoder: Decoded
    #: The trained linker: a gradient to another photo's gradient, and to another photo.
    gradients: Told
    photos: Told
    #: Without training, by whoever holds the probe: to the gradient of another photo of the person, and of this one.
    other_gradient: Told
    same_gradient: Told


@dataclass(frozen=True, eq=False)
class Measured:
    """Who are attacked."""

    sent: Sent
    #: (N, 320): what the recognisers that the probe imitates say of the photos.
    said: Tensor


def few(people: Sequence[str], most: int = 5) -> list[int]:
    """Positions of each person's first photos: a person with many must not decide over the rates."""
    taken: dict[str, int] = {}
    kept = []
    for place, name in enumerate(people):
        taken[name] = taken.get(name, 0) + 1
        if taken[name] <= most:
            kept.append(place)
    return kept


def leaks(attacker: Attacker, look: Look, who: Measured, pairs: Pairs, judges: Sequence[Target]) -> Leaks:
    """All attacks on one reduction.

    Args:
        attacker: trained on this reduction and on other people.
        look: what it looks at.
        who: the photos to link.
        pairs: the photos to decode, which must be among those; the judges compare with the others.
        judges: recognisers that no attacker learnt from.
    """
    people = who.sent.faces.people
    given = who.sent.of(torch.arange(len(people)))
    seen = look(given, who.sent.seeds)
    pictures, embeddings = attacked(attacker, seen)
    places = {seed: place for place, seed in enumerate(who.sent.seeds)}
    wanted = [places[seed] for seed in seeds_of(eight_bits(pairs.probes))]
    alike = alignments(seen, given)
    return Leaks(
        decoder=decoded(pictures[wanted], pairs, judges),
        gradients=between(embeddings @ embeddings.T, people),
        photos=between(embeddings @ who.said.T, people),
        other_gradient=between(alike, people),
        same_gradient=itself(alike, people),
    )


@torch.no_grad()
def attacked(attacker: Attacker, seen: Float32) -> tuple[Tensor, Tensor]:
    """Return the attacker's pictures and embeddings of gradients (N, 6, 112, 112)."""
    found = [attacker(channels_last(chunk)) for chunk in torch.split(torch.from_numpy(seen), BATCH)]
    pictures, embeddings = zip(*found, strict=True)
    return torch.cat(pictures), torch.cat(embeddings)


def decoded(pictures: Tensor, pairs: Pairs, judges: Sequence[Target]) -> Decoded:
    """Pictures (N, 3, 112, 112) in [0, 1] that stand for the pairs' probes."""
    clean, made = eight_bits(pairs.probes), eight_bits(pictures)
    faces = made.float() / 255
    matches = [
        [100 - one.protection(faces, embed(one.recogniser, photos))[0] for one in judges]
        for photos in (pairs.gallery, pairs.probes)
    ]
    other, same = (float(np.mean(rates)) for rates in matches)
    return Decoded(ssim=ssim(clean, made), psnr_db=psnr(clean, made), other_photo=other, same_photo=same)
