"""Train all three modules together, through the steps on the probe: each learns what the others make of its work.

The steps are differentiable (the probe is smooth, and `apf.warp` twice so), so the probe learns to lead where the
teachers no longer know the face, as one learns an optimiser by what it reaches (Andrychowicz et al., NeurIPS 2016;
MAML, Finn et al., ICML 2017). It goes on imitating the teachers on clean faces, and so stays a recogniser.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import apf.gradient as stage
from apf.models.probe import Probe
from apf.models.unet import TransferNet
from apf.train import augment
from apf.train.attack import Ensemble, attack_step
from apf.train.data import Faces
from apf.train.loop import Budget, Stateful, draw, train
from apf.train.teachers import channels_last, half_precision
from apf.train.universal import UniversalPerturbation
from apf.universal import bounded, combine

BATCH = 8
#: Clean faces a step on which the probe imitates the teachers, and the weight of that.
CLEAN_BATCH, CLEAN_WEIGHT = 16, 0.1
PROBE_LR, NETWORK_LR, UNIVERSAL_LR = 3e-4, 1e-3, 3e-3
LARGEST_GRADIENT = 1.0
#: Shares of the steps: without the transfer network, without the universal part, and the universal part alone.
NO_TRANSFER, NO_UNIVERSAL, UNIVERSAL_ALONE = 0.12, 0.12, 0.08


@dataclass(frozen=True)
class Modules:
    """The three, as they are trained together; the probe with its BatchNorm folded in (`apf.models.probe.fused`)."""

    probe: Probe
    network: TransferNet
    uap: UniversalPerturbation

    def to(self, device: str) -> Modules:
        for module in (self.probe, self.network, self.uap):
            module.to(device).to(memory_format=torch.channels_last).requires_grad_(True)
        return self

    def stages(
        self, seen: Tensor, epsilon: float, *, gradient: bool = True, transfer: bool = True, universal: bool = True
    ) -> Tensor:
        """The perturbation (B, 3, 112, 112) by these stages, as `apf.filter.Filter` joins them, with its graph."""
        parts = [self.uap(len(seen))] if universal else []
        if not gradient:
            return combine(parts, epsilon)
        start = bounded(parts) if parts else None
        gradients = stage.gradient(self.probe, channels_last(seen), epsilon, start, differentiable=True)
        if not transfer:
            return combine([stage.as_perturbation(gradients)], epsilon)
        return combine([self.network(channels_last(gradients)), *parts], epsilon)

    def perturb(self, seen: Tensor, epsilon: float, generator: torch.Generator) -> Tensor:
        """All three stages, or those that a recipe may leave, drawn at random."""
        chance = augment.uniform(generator)
        if chance < UNIVERSAL_ALONE:
            return self.stages(seen, epsilon, gradient=False, transfer=False)
        if chance < UNIVERSAL_ALONE + NO_UNIVERSAL:
            return self.stages(seen, epsilon, universal=False)
        return self.stages(seen, epsilon, transfer=chance >= UNIVERSAL_ALONE + NO_UNIVERSAL + NO_TRANSFER)


def tune(
    faces: Faces,
    ensemble: Ensemble,
    wanted: Tensor,
    modules: Modules,
    *,
    budget: Budget,
    seed: int,
    run: Path,
    device: str = "cpu",
) -> Modules:
    """The modules, trained on together from where they stand.

    Args:
        wanted: (N, teachers, 64), what the probe imitates of each clean face (`apf.train.probe.Targets.clean`).
        modules: changed in place.
    """
    modules = modules.to(device)
    rates = {"probe": PROBE_LR, "network": NETWORK_LR, "uap": UNIVERSAL_LR}
    parameters = {name: list(getattr(modules, name).parameters()) for name in rates}
    optimiser = torch.optim.Adam([{"params": parameters[n], "lr": lr} for n, lr in rates.items()], betas=(0.9, 0.999))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, list(rates.values()), total_steps=budget.steps + 1, pct_start=0.05
    )

    def step(_: int, generator: torch.Generator) -> dict[str, float]:
        with half_precision(device):
            total, figures = attack_step(modules.perturb, faces, ensemble, BATCH, device, generator)
            index = draw(len(faces), CLEAN_BATCH, generator)
            clean = augment.affine(augment.flip(faces.batch(index).to(device), generator), 0.03, generator)
            alike = (modules.probe.blocks(channels_last(clean)) * wanted[index].to(device)).sum(-1).mean()
        optimiser.zero_grad()
        torch.autograd.backward(total + CLEAN_WEIGHT * (1 - alike))
        for own in parameters.values():
            torch.nn.utils.clip_grad_norm_(own, LARGEST_GRADIENT)
        optimiser.step()
        schedule.step()
        return {**figures, "alike": alike.item()}

    state: dict[str, Stateful] = {
        "probe": modules.probe,
        "network": modules.network,
        "uap": modules.uap,
        "optimiser": optimiser,
        "schedule": schedule,
    }
    given = (faces.pixels, *ensemble.clean.values())
    train(step, state, budget=budget, seed=seed, run=run, name="joint", given=given)
    return modules
