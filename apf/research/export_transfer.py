"""`python -m apf.research.export_transfer`: the transfer network as ONNX, for CPUs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from safetensors.torch import load_file
from torch import nn

from apf.faces.alignment import CROP
from apf.filters.onnx_filter import TRANSFER_ONNX
from apf.runtime.onnx_builder import Builder
from apf.stages.constants import CHANNELS
from apf.stages.transfer_network import TransferNet
from apf.weight_files import WEIGHTS_DIR, digest_of, write_sums


def transfer_network(network: TransferNet) -> onnx.ModelProto:
    """Return the graph of `apf.stages.transfer_network.TransferNet`.

    Input: `gradient` (1, 6, 112, 112). Output: `perturbation` (1, 3, 112, 112), in units of epsilon and not bounded.
    """
    b = Builder()
    x = _block(b, network.stem, _unshuffled(b, "gradient"))
    kept = []
    for down in network.down:
        kept.append(x)
        x = _block(b, down, x)
    for up in network.up:
        x = b.add("Concat", _twice_as_large(b, x), kept.pop(), axis=1)
        x = _block(b, up, x)
    made = b.add("DepthToSpace", _convolution(b, network.last, x), blocksize=2, mode="CRD")
    b.add("Add", made, _convolution(b, network.straight, "gradient"), name="perturbation")
    return b.model("transfer", [_picture("gradient", CHANNELS)], [_picture("perturbation", 3)])


def _unshuffled(b: Builder, x: str) -> str:
    """As `torch.nn.functional.pixel_unshuffle(x, 2)`, whose order of channels SpaceToDepth does not have."""
    half = CROP // 2
    cells = b.add("Reshape", x, b.constant(np.array([1, CHANNELS, half, 2, half, 2])))
    ordered = b.add("Transpose", cells, perm=[0, 1, 3, 5, 2, 4])
    return b.add("Reshape", ordered, b.constant(np.array([1, 4 * CHANNELS, half, half])))


def _twice_as_large(b: Builder, x: str) -> str:
    scales = b.constant(np.array([1, 1, 2, 2], np.float32))
    nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return b.add("Resize", x, "", scales, **nearest)


def _block(b: Builder, block: nn.Module, x: str) -> str:
    """Convolutions, each with SiLU behind it."""
    for layer in block:  # type: ignore[attr-defined]
        x = _convolution(b, layer, x) if isinstance(layer, nn.Conv2d) else b.add("Mul", x, b.add("Sigmoid", x))
    return x


def _convolution(b: Builder, layer: nn.Conv2d, x: str) -> str:
    constants = [b.constant(part.detach().numpy()) for part in (layer.weight, layer.bias) if part is not None]
    pads = [int(side) for side in layer.padding] * 2
    return b.add("Conv", x, *constants, strides=list(layer.stride), pads=pads)


def _picture(name: str, channels: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, CROP, CROP])


def shipped(folder: Path = WEIGHTS_DIR) -> bytes:
    """Return the file that belongs to the weights in a folder."""
    network = TransferNet(CHANNELS)
    network.load_state_dict(load_file(folder / "transfer.safetensors"))
    model = transfer_network(network)
    helper.set_model_props(model, {"weights": digest_of(folder)})
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def export(folder: Path = WEIGHTS_DIR) -> None:
    """Write the file beside the weights that it is made of, and note the digests of all."""
    (folder / TRANSFER_ONNX).write_bytes(shipped(folder))
    write_sums(folder)


if __name__ == "__main__":
    export()
