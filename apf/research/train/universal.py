"""Optimise the universal perturbation alone: Adam on the ensemble's gradient, averaged over mini-batches as in SGA."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from apf.faces.alignment import CROP
from apf.research.train.attack import Ensemble, attack_step
from apf.research.train.data import Faces
from apf.research.train.loop import Budget, train
from apf.research.train.teachers import half_precision
from apf.stages.universal import combine, universal

BATCH = 10
#: Mini-batches whose gradients are averaged into one outer step.
INNER = 2
PEAK_LR = 0.08
#: Share of the peak where a perturbation is not optimised from the start.
GO_ON = 0.3
#: A start off zero, of alternating sign so that no colour is preferred.
START = 0.1


class UniversalPerturbation(nn.Module):
    """One perturbation (3, 112, 112) in units of epsilon, before the bound."""

    def __init__(self) -> None:
        super().__init__()
        self.perturbation = nn.Parameter(START * torch.randn(3, CROP, CROP))

    def forward(self, batch: int) -> Tensor:
        return universal(self.perturbation, batch)


def optimise(
    faces: Faces,
    ensemble: Ensemble,
    *,
    budget: Budget,
    seed: int,
    run: Path,
    device: str = "cpu",
    begun: UniversalPerturbation | None = None,
) -> UniversalPerturbation:
    """Return a universal perturbation for the faces. Steps count mini-batches.

    Args:
        begun: one to go on from, at a lower learning rate; it is changed.
    """
    torch.manual_seed(seed)
    uap = (begun or UniversalPerturbation()).to(device)
    peak = PEAK_LR * (GO_ON if begun else 1)
    optimiser = torch.optim.Adam(uap.parameters(), lr=peak, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, budget.steps // INNER))

    def perturb(seen: Tensor, epsilon: float, _: torch.Generator) -> tuple[Tensor, None]:
        return combine([uap(len(seen))], epsilon), None

    def step(number: int, generator: torch.Generator) -> dict[str, float]:
        with half_precision(device):
            total, figures = attack_step(perturb, faces, ensemble, BATCH, device, generator)
        torch.autograd.backward(total)
        if (number + 1) % INNER == 0:
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
        return figures

    train(
        step,
        {"uap": uap, "optimiser": optimiser, "schedule": schedule},
        budget=budget,
        seed=seed,
        run=run,
        name="universal",
        given=(faces.pixels, *ensemble.clean.values()),
    )
    return uap
