"""A Fawkes-like cloak (Shan et al., "Fawkes: Protecting Privacy against Unauthorized Deep Learning Models", USENIX
Security 2020), from the paper.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from apf.research.evaluate.rivals.loop import BATCH, embed, in_batches, ready
from apf.research.evaluate.rivals.types import Perturb
from apf.research.evaluate.targets import device_of
from apf.research.train.ssim import dssim
from apf.research.train.teachers import channels_last

#: DSSIM that a cloak may cost: the paper's; the tool's modes go from 0.004 to 0.012.
BUDGET = 0.007
#: Price of DSSIM beyond the budget, in feature distance. A much higher one drowns the features in Adam.
PENALTY = 50.0
LEARNING_RATE = 0.25 / 255


def fawkes(
    extractor: nn.Module,
    candidates: Tensor,
    epsilon: float,
    *,
    seed: int,
    choices: int = 20,
    steps: int = 100,
    budget: float = BUDGET,
    learning_rate: float = LEARNING_RATE,
    batch: int = BATCH,
) -> Perturb:
    """Move each face's features towards those of the most distant of some other people, under a DSSIM budget.

    What differs from the paper: the target is one photo, not a class of them, and the cloak is cut to epsilon in the
    end, so that it can be compared with the others.

    Args:
        extractor: one recogniser, (B, 3, 112, 112) in [0, 1] to unit embeddings (B, D).
        candidates: (N, 3, 112, 112) in [0, 1], other people's faces.
        choices: candidates drawn for a face, of which the most distant is its target.
        steps: of Adam.
        learning_rate: of Adam, in pixels in [0, 1].
        batch: faces cloaked side by side.

    Raises:
        ValueError: there is no candidate, or epsilon is not in (0, 1].
    """
    (model,) = ready([extractor])
    if not len(candidates) or choices < 1:
        raise ValueError(f"{choices} choices of {len(candidates)} candidates: a target needs at least one of each")
    known = embed(model, candidates)

    def attack(faces: Tensor, draws: list[Generator]) -> Tensor:
        targets = known[farthest(embed(model, faces), known, choices, draws)]
        return _cloak(model, faces, targets, steps=steps, budget=budget, learning_rate=learning_rate)

    return in_batches(attack, epsilon=epsilon, seed=seed, batch=batch, device=device_of(model))


def farthest(own: Tensor, known: Tensor, choices: int, draws: Sequence[Generator]) -> Tensor:
    """For each face the most distant of so many candidates drawn for it.

    Args:
        own: embeddings (B, D) of the faces.
        known: embeddings (N, D) of the candidates.

    Returns:
        (B,) positions among the candidates.
    """
    drawn = torch.stack([torch.randperm(len(known), generator=draw)[:choices] for draw in draws]).to(own.device)
    distances = torch.cdist(own[:, None], known[drawn])[:, 0]  # (B, choices)
    return drawn.gather(1, distances.argmax(1, keepdim=True))[:, 0]


def _cloak(
    model: nn.Module, faces: Tensor, targets: Tensor, *, steps: int, budget: float, learning_rate: float
) -> Tensor:
    delta = torch.zeros_like(faces).requires_grad_(True)
    optimiser = torch.optim.Adam([delta], lr=learning_rate)
    for _ in range(steps):
        with torch.enable_grad():
            cloaked = faces + delta
            distance = (model(channels_last(cloaked)) - targets).norm(dim=1)
            excess = F.relu(dssim(cloaked, faces) - budget)
            (delta.grad,) = torch.autograd.grad((distance + PENALTY * excess).sum(), delta)
        optimiser.step()
        with torch.no_grad():
            delta.copy_(delta.clamp(min=-faces, max=1 - faces))
    return delta.detach()
