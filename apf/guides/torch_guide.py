"""Guides by torch, for GPUs: the same numbers as by ONNX Runtime, up to rounding."""

from __future__ import annotations

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from apf.errors import GuideError
from apf.faces.alignment import Float32
from apf.guides.guide import ProbeGuide, Source, checked
from apf.guides.torch_recogniser import Recogniser, converted
from apf.stages.probe import Probe, fused
from apf.weight_files import WEIGHTS_DIR, check_file


class TorchGuide:
    """A guide on a torch device.

    Args:
        network: takes crops, gives unit embeddings, in eval mode.
        like: whose name, digest and spec it has.
    """

    def __init__(self, network: nn.Module, like: Source | ProbeGuide, device: str) -> None:
        self.name, self.digest, self.key, self.spec = like.name, like.digest, like.key, like.spec
        self.centre, self.threshold, self.teachers = like.centre, like.threshold, like.teachers
        self.device = torch.device(device)
        #: For callers with their crops on the device: unit embeddings (N, D) of (N, 3, 112, 112), with gradients.
        self.network = network.requires_grad_(False).eval().to(self.device)

    @torch.no_grad()
    def embed(self, crops: Float32) -> Float32:
        found: Float32 = self.network(self._there(checked(crops))).cpu().numpy()
        return found

    def climb(self, crops: Float32, reference: Float32) -> tuple[Float32, Float32]:
        x = self._there(checked(crops)).requires_grad_(True)
        cosines = (self.network(x) * self._there(reference)).sum(-1)
        (gradient,) = torch.autograd.grad(cosines.sum(), x)
        return cosines.detach().cpu().numpy(), gradient.cpu().numpy()

    def _there(self, values: Float32) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)


def torch_guide(source: Source, device: str) -> TorchGuide:
    """Raise GuideError where the network does not convert to torch."""
    try:
        network = converted(source.model)
    except Exception as error:  # onnx2torch raises anything on what it does not know
        raise GuideError(f"guide {source.name!r} does not convert to torch: {error}; use a CPU") from error
    return TorchGuide(Recogniser(network, source.spec), source, device)


def torch_probe(device: str) -> TorchGuide:
    """Return the project's own probe."""
    check_file(WEIGHTS_DIR, "probe.safetensors")
    probe = Probe()
    probe.load_state_dict(load_file(WEIGHTS_DIR / "probe.safetensors"))
    return TorchGuide(fused(probe.eval()), ProbeGuide(), device)
