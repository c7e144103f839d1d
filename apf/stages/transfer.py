"""Stage 2, transfer: the probe's gradient becomes a perturbation that fools recognisers it was not made for."""

from __future__ import annotations

from torch import Tensor

from apf.stages.transfer_network import TransferNet


def transfer(network: TransferNet, gradients: Tensor) -> Tensor:
    """One forward pass. Takes the gradient alone: the photo itself never comes here.

    Args:
        gradients: (B, 6, 112, 112), as `apf.stages.gradient.gradient` gives them.

    Returns:
        (B, 3, 112, 112) in units of epsilon, not bounded yet.
    """
    perturbation: Tensor = network(gradients)
    return perturbation
