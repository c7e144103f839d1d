"""Train the attackers: one on several reductions at once, from which each reduction's own goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from apf.private.quantise import Float32
from apf.research.evaluate.leakage.attacker import Attacker
from apf.research.evaluate.leakage.gradients import Sent
from apf.research.evaluate.leakage.reductions import Reduction
from apf.research.train.loop import Budget, Stateful, draw, train
from apf.research.train.ssim import dssim
from apf.research.train.teachers import channels_last, half_precision
from apf.stages.probe import Probe

BATCH = 32
#: Of a batch, the faces whose picture is also held against the photo's structure and identity: both cost time.
JUDGED = 8
PEAK_LR, OWN_LR = 2e-3, 1e-3
WEIGHT_DECAY = 0.02
#: What a point of each loss weighs beside one of the embedding's cosine.
PIXELS, STRUCTURE, IDENTITY = 4.0, 1.0, 0.3

#: What an attacker looks at, of gradients (n, 6, 112, 112) and a seed each: what it was sent, or what it made of that.
Look = Callable[[Float32, Sequence[int]], Float32]


@dataclass(frozen=True)
class Lesson:
    """What attackers learn from: gradients of people who are not measured, and what is to be read from them."""

    sent: Sent
    #: (N, 320): what the recognisers that the probe imitates say of the photos.
    wanted: Tensor
    #: Frozen: tells whether a decoded picture shows the person.
    probe: Probe


def common(lesson: Lesson, reductions: Sequence[Reduction], *, steps: int, seed: int, run: Path) -> Attacker:
    """Return an attacker that has seen all of these reductions in turn."""
    torch.manual_seed(seed)
    attacker = Attacker().to(memory_format=torch.channels_last)
    looks = [one.seen for one in reductions]
    return _course(attacker, lesson, looks, reductions, PEAK_LR, steps=steps, seed=seed, run=run, name="common")


def own(
    begun: Attacker, lesson: Lesson, reduction: Reduction, look: Look, *, steps: int, seed: int, run: Path
) -> Attacker:
    """Return the attacker of one reduction, which goes on from another one; that is not changed."""
    name = slug(reduction.name)
    return _course(deepcopy(begun), lesson, [look], [reduction], OWN_LR, steps=steps, seed=seed, run=run, name=name)


def slug(name: str) -> str:
    """Return the name as a file's."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def _course(
    attacker: Attacker,
    lesson: Lesson,
    looks: Sequence[Look],
    reductions: Sequence[Reduction],
    peak_lr: float,
    *,
    steps: int,
    seed: int,
    run: Path,
    name: str,
) -> Attacker:
    optimiser = torch.optim.AdamW(attacker.parameters(), lr=peak_lr, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, peak_lr, total_steps=steps + 1, pct_start=0.1)

    def step(number: int, generator: torch.Generator) -> dict[str, float]:
        index = draw(len(lesson.sent), BATCH, generator)
        # Noise and moves are drawn anew each time: an attacker can make as much of them as it likes.
        seeds = torch.randint(2**62, (BATCH,), generator=generator).tolist()
        seen = looks[number % len(looks)](lesson.sent.of(index), seeds)
        losses = _losses(attacker, lesson, index, torch.from_numpy(seen))
        optimiser.zero_grad()
        torch.autograd.backward(sum(losses.values(), torch.zeros(())))
        torch.nn.utils.clip_grad_norm_(attacker.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        return {name: loss.item() for name, loss in losses.items()}

    attacker.train()
    state: dict[str, Stateful] = {"attacker": attacker, "optimiser": optimiser, "schedule": schedule}
    given = (lesson.wanted, torch.from_numpy(np.frombuffer(repr(reductions).encode(), np.uint8).copy()))
    train(step, state, budget=Budget(steps=steps), seed=seed, run=run, name=name, given=given)
    return attacker.eval()


def _losses(attacker: Attacker, lesson: Lesson, index: Tensor, seen: Tensor) -> dict[str, Tensor]:
    photos, wanted = lesson.sent.faces.batch(index), lesson.wanted[index]
    with half_precision(seen.device):
        pictures, embeddings = attacker(channels_last(seen))
        shown = lesson.probe(channels_last(pictures[:JUDGED]))
    return {
        "embedding": 1 - (embeddings * wanted).sum(1).mean(),
        "pixels": PIXELS * (pictures - photos).abs().mean(),
        "structure": STRUCTURE * dssim(pictures[:JUDGED], photos[:JUDGED]).mean(),
        "identity": IDENTITY * (1 - (shown * wanted[:JUDGED]).sum(1).mean()),
    }
