"""Distil the probe: each of its blocks imitates the leading principal components of one teacher."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from apf.models.probe import BLOCK_DIM, Probe
from apf.train import augment
from apf.train.data import Faces
from apf.train.loop import Budget, Stateful, draw, train
from apf.train.teachers import channels_last

BATCH = 64
PEAK_LR = 3e-3


def targets(embeddings: dict[str, Tensor]) -> Tensor:
    """Unit vectors (N, blocks, 64): each teacher's embeddings, centred, on their first principal components."""
    blocks = []
    for _, known in sorted(embeddings.items()):
        centred = known - known.mean(0)
        _, _, components = torch.linalg.svd(centred, full_matrices=False)
        blocks.append(F.normalize(centred @ components[:BLOCK_DIM].T))
    return torch.stack(blocks, 1)


def distil(
    faces: Faces, embeddings: dict[str, Tensor], *, budget: Budget, seed: int, run: Path, device: str = "cpu"
) -> Probe:
    """A probe trained on the faces' cached teacher embeddings, with flips, shifts, light and noise. In eval mode."""
    torch.manual_seed(seed)
    probe = Probe().to(device).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(probe.parameters(), lr=PEAK_LR, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_LR, total_steps=budget.steps + 1, pct_start=0.15)
    wanted = targets(embeddings).to(device)

    def step(_: int, generator: torch.Generator) -> dict[str, float]:
        index = draw(len(faces), BATCH, generator)
        seen = _augmented(faces.batch(index).to(device), generator)
        cosine = (probe.blocks(channels_last(seen)) * wanted[index]).sum(-1).mean()
        optimiser.zero_grad()
        torch.autograd.backward(1 - cosine)
        optimiser.step()
        schedule.step()
        return {"cosine": cosine.item()}

    probe.train()
    state: dict[str, Stateful] = {"probe": probe, "optimiser": optimiser, "schedule": schedule}
    train(step, state, budget=budget, seed=seed, run=run, name="probe")
    return probe.eval()


def _augmented(faces: Tensor, generator: torch.Generator) -> Tensor:
    seen = augment.affine(augment.flip(faces, generator), 0.03, generator)
    seen = augment.light(seen, 0.15, generator)
    if augment.uniform(generator) < 0.3:
        seen = augment.resize(seen, 0.5)
    return seen + 0.03 * augment.uniform(generator) * augment.normal(tuple(seen.shape), generator, seen)


@torch.no_grad()
def verification(embeddings: Tensor, people: tuple[str, ...]) -> dict[str, float]:
    """True accept rates at false accept rates of 1e-2 and 1e-3 over all pairs of these faces."""
    similarity = embeddings @ embeddings.T
    known = {name: number for number, name in enumerate(dict.fromkeys(people))}
    who = torch.tensor([known[name] for name in people])
    same = who[:, None] == who[None]
    above = torch.ones_like(same).triu(1)
    genuine, impostor = similarity[same & above], similarity[~same & above]
    rates = {}
    for far in (1e-2, 1e-3):
        threshold = impostor.kthvalue(max(1, round(len(impostor) * (1 - far)))).values
        rates[f"tar_at_far_{far:g}"] = (genuine > threshold).float().mean().item()
    return rates
