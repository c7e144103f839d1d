"""The steps of a GPU's filter: its guides at a precision, and the road on which faces climb on them in batches."""

from __future__ import annotations

import copy
import logging

import torch
from torch import nn

from apf.attack.batched.road import BatchedRoad, torch_guides
from apf.attack.recipe_guides import Guides
from apf.filters.precision import reduced, try_to_climb
from apf.guides.torch_recogniser import Recogniser
from apf.runtime.cuda.graph import captured

logger = logging.getLogger(__name__)


def road_on(device: torch.device, guides: Guides, dtype: torch.dtype, *, graphs: bool) -> BatchedRoad:
    """Return the road of a device's guides. What they climb in has no part in verdicts: these are in float32.

    Args:
        dtype: that the guides' layers compute in while faces climb on them.
        graphs: whether work goes by CUDA graphs.

    Raises:
        TypeError: a guide is not of torch.
    """
    capture = captured if graphs and device.type == "cuda" else None
    return BatchedRoad(
        torch_guides(guides), device, coarser=lambda network: guide_at_precision(network, dtype), capture=capture
    )


def guide_at_precision(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a guide's network as steps climb on it: itself, or a copy whose layers compute in bfloat16 where that
    works. How a face is fed to it stays float32.
    """
    if dtype == torch.float32:
        return network
    if isinstance(network, Recogniser):
        lower: nn.Module = copy.deepcopy(network)
        lower.network = reduced(network.network, dtype)
    else:
        lower = reduced(network, dtype)
    try:
        try_to_climb(lower)
    except RuntimeError as error:
        logger.warning("%s does not work for a guide here, climbing in float32: %s", dtype, error)
        return network
    return lower
