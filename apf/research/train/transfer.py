"""Train the transfer network from the probe's gradient through the teachers, together with the universal part."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from apf.research.train import augment
from apf.research.train.attack import Ensemble, attack_step
from apf.research.train.data import Faces
from apf.research.train.loop import Budget, Stateful, train
from apf.research.train.teachers import channels_last, half_precision
from apf.research.train.universal import UniversalPerturbation
from apf.stages.compose import STAGES, answered
from apf.stages.constants import CHANNELS
from apf.stages.probe import Probe
from apf.stages.transfer_network import TransferNet

BATCH = 12
PEAK_LR = 1e-3
#: Share of both peaks where a network is not trained from the start.
GO_ON = 0.3
#: The universal part is found already and only follows the network.
UNIVERSAL_LR = 4e-3
#: Share of the steps without the universal part, and share with nothing else: recipes may leave either out.
ALONE = 0.1


def learn(
    faces: Faces,
    ensemble: Ensemble,
    probe: Probe,
    uap: UniversalPerturbation,
    *,
    budget: Budget,
    seed: int,
    run: Path,
    device: str = "cpu",
    begun: TransferNet | None = None,
) -> TransferNet:
    """Return a transfer network for the probe's gradients; `uap` is trained along.

    Args:
        probe: frozen, in eval mode.
        begun: a network to go on from, at lower learning rates; it is changed.
    """
    torch.manual_seed(seed)
    network = (begun or TransferNet(CHANNELS)).to(device).to(memory_format=torch.channels_last)
    peaks = [rate * (GO_ON if begun else 1) for rate in (PEAK_LR, UNIVERSAL_LR)]
    groups = [{"params": module.parameters(), "lr": peak} for module, peak in zip((network, uap), peaks, strict=True)]
    optimiser = torch.optim.Adam(groups, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, peaks, total_steps=budget.steps + 1, pct_start=0.05)

    def perturb(seen: Tensor, epsilon: float, generator: torch.Generator) -> tuple[Tensor, None]:
        chance, stages = augment.uniform(generator), STAGES
        if chance < ALONE:
            stages = ("universal",)
        elif chance > 1 - ALONE:
            stages = ("gradient", "transfer")
        return answered(probe, network, uap.perturbation, channels_last(seen), epsilon, stages)[0], None

    def step(_: int, generator: torch.Generator) -> dict[str, float]:
        with half_precision(device):
            total, figures = attack_step(perturb, faces, ensemble, BATCH, device, generator)
        optimiser.zero_grad()
        torch.autograd.backward(total)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        return figures

    state: dict[str, Stateful] = {"network": network, "uap": uap, "optimiser": optimiser, "schedule": schedule}
    given = (faces.pixels, *ensemble.clean.values(), *probe.state_dict().values())
    train(step, state, budget=budget, seed=seed, run=run, name="transfer", given=given)
    return network
