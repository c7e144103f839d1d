"""Precision of the networks: float32, or bfloat16 where a GPU has units for it.

Only the probe's and the transfer network's layers run in bfloat16, under autocast. The steps between them (warps,
sizes, momentum, sums and bounds) and the networks' results stay float32. "float32" is as torch does it: on a GPU
convolutions may use TF32, whose rounding lies between the two.
"""

from __future__ import annotations

import copy
import logging
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from apf.faces.alignment import CROP
from apf.stages.constants import CHANNELS
from apf.stages.probe import Probe
from apf.stages.transfer_network import TransferNet

logger = logging.getLogger(__name__)

#: "auto" is bfloat16 on a GPU that has units for it, else float32.
Precision = Literal["auto", "float32", "bfloat16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)

#: Of the first GPUs (Ampere) whose tensor cores compute in bfloat16; on others torch emulates it, slowly.
BFLOAT16_CAPABILITY = (8, 0)

Module = TypeVar("Module", bound=nn.Module)


def chosen(precision: str, device: torch.device) -> torch.dtype:
    """Return what the networks compute in on a device.

    On a CPU "bfloat16" emulates what a GPU would compute, to measure by; nothing else should ask for it there.

    Raises:
        ValueError: there is no such precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"no precision named {precision!r}: use one of {', '.join(PRECISIONS)}")
    able = device.type == "cuda" and torch.cuda.get_device_capability(device) >= BFLOAT16_CAPABILITY
    if precision == "bfloat16" and device.type == "cuda" and not able:
        logger.warning("this GPU has no units for bfloat16: computing in float32")
    wanted = able if precision == "auto" else precision == "bfloat16" and (able or device.type == "cpu")
    return torch.bfloat16 if wanted else torch.float32


def at_precision(probe: Probe, network: TransferNet, dtype: torch.dtype) -> tuple[Probe, TransferNet]:
    """Return the two networks, or copies that compute in bfloat16 where that works: where not, a warning says so."""
    if dtype == torch.float32:
        return probe, network
    lower = reduced(probe, dtype), reduced(network, dtype)
    try:
        _try(*lower)
    except RuntimeError as error:
        logger.warning("%s does not work here, computing in float32: %s", dtype, error)
        return probe, network
    return lower


def reduced(module: Module, dtype: torch.dtype) -> Module:
    """Return a copy whose layers compute in a smaller type; it takes and gives float32 and lets gradients through as
    before.

    Its weights are of that type already, which saves autocast a copy of each at each call.
    """
    made: Module = copy.deepcopy(module).to(dtype)
    layers = made.forward

    def forward(x: Tensor) -> Tensor:
        # Nothing of a copied weight may outlive the call: a CUDA graph would read it from memory that is others'.
        with torch.autocast(x.device.type, dtype, cache_enabled=False):
            result: Tensor = layers(x)
        return result.float()

    made.forward = forward
    return made


def _try(probe: Probe, network: TransferNet) -> None:
    """Raise RuntimeError where the device cannot run the two, forwards and backwards, to finite results."""
    try_to_climb(probe)
    with torch.no_grad():
        device = next(probe.parameters()).device
        perturbation = network(torch.full((1, CHANNELS, CROP, CROP), 0.5, device=device))
    if not torch.isfinite(perturbation).all():
        raise RuntimeError("its results are not finite")


def try_to_climb(network: nn.Module) -> None:
    """Raise RuntimeError where the device cannot tell the gradient of a network by a face, or no finite one."""
    device = next(network.parameters()).device
    with torch.inference_mode(False), torch.enable_grad():
        face = torch.full((1, 3, CROP, CROP), 0.5, device=device).requires_grad_(True)
        (direction,) = torch.autograd.grad(network(face).sum(), face)
    if not torch.isfinite(direction).all():
        raise RuntimeError("its results are not finite")
