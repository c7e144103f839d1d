"""Train the probe in three courses: imitate the teachers on clean faces, on faces perturbed against the probe, and
along the filter's own road from the universal perturbation.

The first course makes a recogniser. The second makes its gradient worth following: wherever an attack on the probe
leads, the teachers say where they stand, so that directions which fool the probe alone die out. The third does so where
the probe will really be asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from apf.guides.torch_recogniser import Recogniser
from apf.research.train import augment
from apf.research.train.data import DataError, Faces
from apf.research.train.loop import Budget, Stateful, draw, train
from apf.research.train.teachers import channels_last, half_precision
from apf.stages.constants import STEPS
from apf.stages.gradient import at_unit_size, climb
from apf.stages.probe import BLOCK_DIM, BLOCKS, NORM_EPSILON, Probe

BATCH, HARD_BATCH = 64, 32
PEAK_LR, HARD_LR, ROAD_LR = 3e-3, 2e-3, 1e-3
#: Perturbed faces: how far, and in how many steps of the probe's own gradient.
EPSILONS = (4 / 255, 8 / 255, 8 / 255, 12 / 255)
ATTACK_STEPS = (1, 2, 3)
#: Share of a batch of the second course that stays clean.
CLEAN_SHARE = 0.25
#: Share of the third course's batches that do not start from the universal perturbation, but from random signs.
OWN_START = 0.2

#: Perturbs faces (B, 3, 112, 112) against a probe in eval mode.
Perturbation = Callable[[Probe, Tensor, torch.Generator], Tensor]
#: Draws faces (B, 3, 112, 112) and what the teachers say of them, (B, teachers, 64).
Batch = Callable[[torch.Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Projection:
    """A teacher's embeddings (N, D) on their first principal components: unit vectors (N, 64)."""

    mean: Tensor
    components: Tensor

    @classmethod
    def of(cls, embeddings: Tensor) -> Projection:
        """Return the projection of these embeddings (N, D); raises DataError where N or D is less than 64."""
        if min(embeddings.shape) < BLOCK_DIM:
            faces, size = embeddings.shape
            raise DataError(f"{faces} faces, embeddings of {size}: at least {BLOCK_DIM} of both are needed")
        mean = embeddings.mean(0)
        _, _, components = torch.linalg.svd(embeddings - mean, full_matrices=False)
        return cls(mean, components[:BLOCK_DIM].T.contiguous())

    def __call__(self, embeddings: Tensor) -> Tensor:
        return F.normalize((embeddings - self.mean.to(embeddings)) @ self.components.to(embeddings))


@dataclass(frozen=True)
class Targets:
    """What the probe imitates: every teacher's projected embedding, (N, teachers, 64), sorted by name."""

    teachers: dict[str, Recogniser]
    projections: dict[str, Projection]
    #: Of the clean training faces.
    clean: Tensor

    @classmethod
    def of(cls, teachers: dict[str, Recogniser], clean: dict[str, Tensor]) -> Targets:
        """From the teachers' embeddings of the training faces; raises DataError where there are not five of them."""
        if len(teachers) != BLOCKS:
            raise DataError(
                f"{len(teachers)} recognisers of role 'train', the probe imitates {BLOCKS}: change --models"
            )
        projections = {name: Projection.of(clean[name]) for name in sorted(teachers)}
        return cls(teachers, projections, torch.stack([found(clean[name]) for name, found in projections.items()], 1))

    @torch.no_grad()
    def __call__(self, faces: Tensor) -> Tensor:
        with half_precision(faces.device):
            said = {name: self.teachers[name](channels_last(faces)).float() for name in self.projections}
        return torch.stack([found(said[name]) for name, found in self.projections.items()], 1)


def distil(faces: Faces, targets: Targets, *, budget: Budget, seed: int, run: Path, device: str = "cpu") -> Probe:
    """First course: the teachers' embeddings of the clean faces, under flips, shifts, light and noise. In eval mode."""
    torch.manual_seed(seed)
    probe = Probe().to(device).to(memory_format=torch.channels_last)
    wanted = targets.clean.to(device)

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        index = draw(len(faces), BATCH, generator)
        return _augmented(faces.batch(index).to(device), generator), wanted[index]

    given = (faces.pixels, targets.clean)
    return _course(probe, batch, PEAK_LR, given, budget=budget, seed=seed, run=run, name="probe")


def harden(
    probe: Probe, faces: Faces, targets: Targets, *, budget: Budget, seed: int, run: Path, device: str = "cpu"
) -> Probe:
    """Second course: the teachers' embeddings of faces that were perturbed against the probe. Changes the probe."""
    batch = _hard_batches(probe, faces, targets, _against, device)
    given = (faces.pixels, targets.clean)
    return _course(probe, batch, HARD_LR, given, budget=budget, seed=seed, run=run, name="probe-hard")


def follow(
    probe: Probe,
    universal: Tensor,
    faces: Faces,
    targets: Targets,
    *,
    budget: Budget,
    seed: int,
    run: Path,
    device: str = "cpu",
) -> Probe:
    """Third course: the teachers' embeddings along the gradient stage's own steps. Changes the probe.

    Args:
        universal: (3, 112, 112), where the steps start, in units of epsilon and within [-1, 1].
    """
    start = universal.to(device)

    def along(probe: Probe, clean: Tensor, generator: torch.Generator) -> Tensor:
        return _along(probe, start, clean, generator)

    batch = _hard_batches(probe, faces, targets, along, device)
    given = (faces.pixels, targets.clean, universal)
    return _course(probe, batch, ROAD_LR, given, budget=budget, seed=seed, run=run, name="probe-road")


def _hard_batches(probe: Probe, faces: Faces, targets: Targets, perturbation: Perturbation, device: str) -> Batch:
    """Faces perturbed by the probe as it is now, a few left clean, and what the teachers say of those very faces."""

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        index = draw(len(faces), HARD_BATCH, generator)
        clean = _augmented(faces.batch(index).to(device), generator).clamp(0, 1)
        delta = perturbation(probe.eval(), clean, generator)
        delta[: int(CLEAN_SHARE * HARD_BATCH)] = 0
        seen = (clean + delta).clamp(0, 1)
        probe.train()
        return seen, targets(seen)

    return batch


def _course(
    probe: Probe,
    batch: Batch,
    peak_lr: float,
    given: Sequence[Tensor],
    *,
    budget: Budget,
    seed: int,
    run: Path,
    name: str,
) -> Probe:
    optimiser = torch.optim.AdamW(probe.parameters(), lr=peak_lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, peak_lr, total_steps=budget.steps + 1, pct_start=0.1)

    def step(_: int, generator: torch.Generator) -> dict[str, float]:
        seen, wanted = batch(generator)
        with half_precision(seen.device):
            blocks = probe.blocks(channels_last(seen))
        cosine = (blocks * wanted).sum(-1).mean()
        optimiser.zero_grad()
        torch.autograd.backward(1 - cosine)
        optimiser.step()
        schedule.step()
        return {"cosine": cosine.item()}

    probe.train()
    state: dict[str, Stateful] = {"probe": probe, "optimiser": optimiser, "schedule": schedule}
    train(step, state, budget=budget, seed=seed, run=run, name=name, given=given)
    return probe.eval()


def _against(probe: Probe, faces: Tensor, generator: torch.Generator) -> Tensor:
    """Return a perturbation (B, 3, 112, 112) of a few momentum sign steps away from the faces' own embeddings."""
    epsilon = EPSILONS[int(torch.randint(len(EPSILONS), (), generator=generator))]
    steps = ATTACK_STEPS[int(torch.randint(len(ATTACK_STEPS), (), generator=generator))]
    delta = epsilon * augment.normal(tuple(faces.shape), generator, faces).sign() / 2
    momentum = torch.zeros_like(faces)
    with half_precision(faces.device):
        with torch.no_grad():
            own = probe(channels_last(faces))
        for _ in range(steps):
            moved = (faces + delta).requires_grad_(True)
            similarity = (probe(channels_last(augment.affine(moved, 0.04, generator))) * own).sum()
            (gradient,) = torch.autograd.grad(-similarity, moved)
            momentum = momentum + at_unit_size(gradient)
            delta = (delta + 1.5 * epsilon / steps * momentum.sign()).clamp(-epsilon, epsilon)
    return delta.detach()


def _along(probe: Probe, universal: Tensor, faces: Tensor, generator: torch.Generator) -> Tensor:
    """Where the gradient stage is (B, 3, 112, 112) after some of its steps, none at the least and all at the most."""
    epsilon = EPSILONS[int(torch.randint(len(EPSILONS), (), generator=generator))]
    taken = int(torch.randint(STEPS + 1, (), generator=generator))
    start = universal.expand_as(faces)
    if augment.uniform(generator) < OWN_START:
        start = augment.normal(tuple(faces.shape), generator, faces).sign() / 2
    with half_precision(faces.device):
        units, _ = climb(probe, channels_last(faces), start, epsilon, steps=STEPS, taken=taken)
    return epsilon * units.detach()


def _augmented(faces: Tensor, generator: torch.Generator) -> Tensor:
    seen = augment.affine(augment.flip(faces, generator), 0.03, generator)
    seen = augment.light(seen, 0.15, generator)
    if augment.uniform(generator) < 0.3:
        seen = augment.resize(seen, 0.5)
    return seen + 0.03 * augment.uniform(generator) * augment.normal(tuple(seen.shape), generator, seen)


def unfused(probe: Probe) -> Probe:
    """Return a new probe of the same function as a fused one: its BatchNorms only add what were the convolutions'
    biases.
    """
    found = Probe().eval()
    state = found.state_dict()
    for name, tensor in probe.state_dict().items():
        if name in state:
            state[name] = tensor
            continue
        norm = name.removesuffix("0.bias") + "1"
        state[f"{norm}.bias"] = tensor
        state[f"{norm}.weight"] = (state[f"{norm}.running_var"] + NORM_EPSILON).sqrt()
    found.load_state_dict(state)
    return found
