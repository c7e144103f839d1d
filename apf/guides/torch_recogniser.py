"""Face recognisers from ONNX files, as torch modules that gradients flow through."""

from __future__ import annotations

import hashlib
import warnings
from operator import attrgetter
from pathlib import Path
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from onnx2torch import convert
from onnx2torch.node_converters import slice as onnx_slice
from onnx2torch.node_converters.pad import (
    OnnxPadDynamic,
    OnnxPadStatic,
    _onnx_padding_to_torch,
    _torch_padding_to_mode_format,
)
from torch import Tensor, nn

from apf.errors import WeightsError
from apf.faces.alignment import CROP
from apf.guides.input_spec import InputSpec
from apf.runtime.onnx_check import checked, read_onnx


def _do_slice(x: Tensor, flip_dims: list[int], from_front: list[Any], from_back: list[Any]) -> Tensor:
    """onnx2torch's own, but for tuples: it indexes with lists, which torch warns of and will read otherwise."""
    if flip_dims:
        x = torch.flip(x, dims=flip_dims)
    return x[tuple(from_front)][tuple(from_back)]


onnx_slice._do_slice = _do_slice


def converted(model: onnx.ModelProto) -> nn.Module:
    """Return a network as onnx2torch makes it, but for sizes of padding: it reads these from the device at each call,
    which would wait for it, and be no part of a CUDA graph.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # onnx2torch speaks of tracing, which we never do
        network: Any = convert(model)
    for node in network.graph.nodes:
        padding = network.get_submodule(node.target) if node.op == "call_module" else None
        constant = [getattr(given, "op", None) == "get_attr" for given in node.args[1:]]
        if isinstance(padding, OnnxPadDynamic) and constant and all(constant):
            sizes, *value = (attrgetter(given.target)(network) for given in node.args[1:])
            around = _torch_padding_to_mode_format(_onnx_padding_to_torch(sizes.tolist()), padding.mode)
            fixed = OnnxPadStatic(around, padding.mode, *(float(one) for one in value))
            network.set_submodule(node.target, fixed)
            node.args = node.args[:1]
    network.recompile()
    found: nn.Module = network
    return found


class Recogniser(nn.Module):
    """An embedding network: ArcFace crops in, unit embeddings out."""

    mean: Tensor
    std: Tensor
    grid: Tensor | None
    #: Digest of the file that it came from and of how it is fed; empty where it came from no file.
    key: str = ""

    def __init__(self, network: nn.Module, spec: InputSpec | None = None) -> None:
        super().__init__()
        spec = spec or InputSpec()
        self.network = network
        self.bgr = spec.channel_order == "BGR"
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(1, -1, 1, 1))
        self.register_buffer("grid", _template_grid(spec), persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, faces: Tensor) -> Tensor:
        """Embed faces (B, 3, 112, 112) float32 RGB in [0, 1], on the ArcFace template, as (B, D) of unit length."""
        if self.grid is not None:
            grid = self.grid.expand(len(faces), -1, -1, -1)
            faces = F.grid_sample(faces, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        if self.bgr:
            faces = faces.flip(1)
        embeddings: Tensor = self.network((faces * 255 - self.mean) / self.std)
        return F.normalize(embeddings.flatten(1))


def _template_grid(spec: InputSpec) -> Tensor | None:
    """Return the sampling grid (1, height, width, 2) from the model's crop into the ArcFace crop, or None where they
    agree.
    """
    points = spec.places()
    return None if points is None else torch.from_numpy((points + 0.5) * 2 / CROP - 1).float()[None]


def load_recogniser(path: Path, spec: InputSpec | None = None, *, sha256: str | None = None) -> Recogniser:
    """Return a recogniser from an ONNX file; without a spec it is fed as InsightFace's ArcFace models are.

    Raises:
        WeightsError: the file is missing, damaged, not convertible, or not the one with this SHA-256.
    """
    try:
        data = read_onnx(Path(path))
    except OSError as error:
        raise WeightsError(f"recogniser {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise WeightsError(f"recogniser {path} is not taken: {error}") from error
    digest = hashlib.sha256(data).hexdigest()
    if sha256 is not None and digest != sha256:
        raise WeightsError(f"recogniser {path} has SHA-256 {digest}, not {sha256}: fetch it again")
    try:
        network = converted(checked(data))
    except Exception as error:  # onnx and onnx2torch raise anything on a file they cannot read
        raise WeightsError(f"recogniser {path} does not convert to torch: {error}") from error
    found = Recogniser(network, spec)
    _try(found, path)
    found.key = hashlib.sha256(f"{digest} {(spec or InputSpec()).model_dump_json()}".encode()).hexdigest()
    return found


@torch.no_grad()
def _try(recogniser: Recogniser, path: Path) -> None:
    """Embed one grey face: a network of another input or output than its spec's says so here, not in a long run."""
    try:
        found = recogniser(torch.full((1, 3, CROP, CROP), 0.5))
    except Exception as error:  # whatever the network's layers raise
        raise WeightsError(
            f"recogniser {path} does not take faces as its spec says ({str(error).splitlines()[0]}): mend its size and "
            "layout in models.json, or export it with input (N, 3, height, width) and one output"
        ) from error
    if not found.isfinite().all():
        raise WeightsError(f"recogniser {path} embeds a grey face as {found.flatten()[0]:g}: its spec or file is wrong")
