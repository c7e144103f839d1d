"""Train all three modules together, through the steps on the probe: each learns what the others make of its work.

The steps are differentiable (the probe is smooth, and `apf.stages.grid_sample` twice so), so the probe learns to lead
where the teachers no longer know the face, as one learns an optimiser by what it reaches (Andrychowicz et al., NeurIPS
2016; MAML, Finn et al., ICML 2017). It goes on imitating the teachers on clean faces, and so stays a recogniser.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from apf.research.train import augment, together
from apf.research.train.attack import Ensemble, attack_step
from apf.research.train.data import Faces
from apf.research.train.loop import Budget, Pace, Stateful, draw, one_cycle, train
from apf.research.train.teachers import channels_last, half_precision
from apf.research.train.universal import UniversalPerturbation
from apf.stages.compose import STAGES, answered
from apf.stages.probe import Probe
from apf.stages.transfer_network import TransferNet

BATCH = 8
#: Clean faces a step on which the probe imitates the teachers, and the weight of that.
CLEAN_BATCH, CLEAN_WEIGHT = 16, 0.1
PROBE_LR, NETWORK_LR, UNIVERSAL_LR = 3e-4, 1e-3, 3e-3
LARGEST_GRADIENT = 1.0
#: Shares of the steps that run without some of the stages.
SHARES: tuple[tuple[float, tuple[str, ...]], ...] = (
    (0.12, ("universal",)),
    (0.06, ("gradient", "transfer")),
    (0.1, ("gradient", "universal")),
)


@dataclass(frozen=True)
class Modules:
    """The three, as they are trained together; the probe with its BatchNorm folded in (`apf.stages.probe.fused`)."""

    probe: Probe
    network: TransferNet
    uap: UniversalPerturbation

    def to(self, device: str) -> Modules:
        for module in (self.probe, self.network, self.uap):
            module.to(device).to(memory_format=torch.channels_last).requires_grad_(True)
        return self

    def perturb(self, seen: Tensor, epsilon: float, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Return the perturbation (B, 3, 112, 112) by all three stages, or by those that a recipe may leave, at
        random, and the gradient stage's momentum.
        """
        stages, seen = _drawn(augment.uniform(generator)), channels_last(seen)
        parts = self.probe, self.network, self.uap.perturbation
        return answered(*parts, seen, epsilon, stages, differentiable=True)


def _drawn(chance: float) -> tuple[str, ...]:
    """Return the stages of a step, for a number in [0, 1)."""
    for share, stages in SHARES:
        if chance < share:
            return stages
        chance -= share
    return STAGES


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
    """Return the modules, trained on together from where they stand.

    Args:
        wanted: (N, teachers, 64), what the probe imitates of each clean face
            (`apf.research.train.probe.Targets.clean`).
        modules: changed in place.
    """
    modules = modules.to(device)
    rates = {"probe": PROBE_LR, "network": NETWORK_LR, "uap": UNIVERSAL_LR}
    parameters = {name: list(getattr(modules, name).parameters()) for name in rates}
    optimiser = torch.optim.Adam([{"params": parameters[n], "lr": lr} for n, lr in rates.items()], betas=(0.9, 0.999))
    pace, size = Pace(budget), together.size()

    def step(done: int, generator: torch.Generator) -> dict[str, float]:
        height = one_cycle(together.agreed(pace.share(done)))
        for group, rate in zip(optimiser.param_groups, rates.values(), strict=True):
            group["lr"] = rate * height
        with half_precision(device):
            total, figures = attack_step(modules.perturb, faces, ensemble, max(1, BATCH // size), device, generator)
            index = draw(len(faces), max(1, CLEAN_BATCH // size), generator)
            clean = augment.affine(augment.flip(faces.batch(index).to(device), generator), 0.03, generator)
            alike = (modules.probe.blocks(channels_last(clean)) * wanted[index].to(device)).sum(-1).mean()
        optimiser.zero_grad()
        torch.autograd.backward(total + CLEAN_WEIGHT * (1 - alike))
        together.average_gradients(chain(*parameters.values()))
        for own in parameters.values():
            torch.nn.utils.clip_grad_norm_(own, LARGEST_GRADIENT)
        optimiser.step()
        return {**figures, "alike": alike.item()}

    state: dict[str, Stateful] = {
        "probe": modules.probe,
        "network": modules.network,
        "uap": modules.uap,
        "optimiser": optimiser,
        "pace": pace,
    }
    given = (faces.pixels, *ensemble.clean.values())
    train(step, state, budget=budget, seed=seed, run=run, name="joint", given=given)
    return modules
