"""Quantise gradients: small whole numbers leave the device. NumPy only.

A value is first brought into [-1, 1]: the perturbation reached lies there already; the momentum, whose few large values
are a hundred times its many small ones, goes through the mu-law of telephony (ITU-T G.711's idea, continuous). That
range is cut into 2**bits equal cells, numbered from 0, and a value becomes the number of its cell; what is read back is
the middle of the cell. With one bit only the sign is left, and it is read as what is usual for its channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apf.stages.constants import CHANNELS

Float32 = NDArray[np.float32]
UInt8 = NDArray[np.uint8]

#: Bits a value; several fill a byte, the first in its highest bits.
BITS = (1, 2, 4, 8)
#: Noise above this leaves nothing to protect by.
MAX_NOISE = 16.0
#: The mu-law's constant, and the largest momentum that it holds apart, in units of its root mean square: on 60 faces
#: none was larger.
MU, LARGEST = 255.0, 24.0
#: The first three channels are the perturbation reached, the others the momentum.
REACHED = 3
#: A server's reading of one bit, of either: the middles of the cells would have it perturb too little or too much.
SIGN_OF_REACHED, SIGN_OF_MOMENTUM = 0.8, 1.0


@dataclass(frozen=True)
class Reduction:
    """The reduction of gradients before they leave the device."""

    #: Left of each value, one of `BITS`.
    bits: int = 8
    #: Whether the momentum is sent, too, or the perturbation reached alone.
    momentum: bool = True
    #: Spread of Gaussian noise that is added first; the perturbation reached is at most 1, the momentum 1 on average.
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ValueError(f"bits must be one of {', '.join(map(str, BITS))}, not {self.bits}")
        if not 0 <= self.noise <= MAX_NOISE:
            raise ValueError(f"noise must be from 0 to {MAX_NOISE:g}, not {self.noise}")

    def reduce(self, gradients: Float32, *, seed: int = 0) -> UInt8:
        """Return what is left of (n, 6, 112, 112), with noise from this seed: (n, 6 or 3, 112, 14 * bits) uint8."""
        left = gradients if self.momentum else gradients[:, :REACHED]
        if self.noise:
            left = left + np.float32(self.noise) * np.random.default_rng(seed).standard_normal(left.shape, np.float32)
        return quantise(left, self.bits)


#: The reduction that the commands use (docs/private.md: what a gradient gives away).
DEFAULT = Reduction(bits=4)


def quantise(gradients: Float32, bits: int) -> UInt8:
    """Return the gradients' cells, packed.

    Args:
        gradients: (n, 6, 112, 112) float32, as `apf.stages.gradient.gradient` gives them, or their first three
            channels.
        bits: one of `BITS`.

    Returns:
        (n, 6 or 3, 112, 14 * bits) uint8.
    """
    squeezed: Float32 = np.array(gradients, np.float32)
    squeezed[:, REACHED:] = _compressed(squeezed[:, REACHED:])
    cells = np.floor((squeezed + 1) * (2**bits / 2))
    return _packed(np.clip(cells, 0, 2**bits - 1).astype(np.uint8), bits)


def dequantise(packed: UInt8, bits: int) -> Float32:
    """Return what the server takes the gradients for, (n, 6, 112, 112) float32, whatever was sent of them.

    With all channels that is the inverse of `quantise`, up to half a cell. Where no momentum was sent, the perturbation
    reached stands in for it.
    """
    middles: Float32 = (_unpacked(packed, bits).astype(np.float32) * 2 + 1) / 2**bits - 1
    reached, momentum = middles[:, :REACHED], middles[:, REACHED:]
    if bits == 1:
        signs = np.sign(momentum if momentum.shape[1] else reached)
        return np.concatenate([SIGN_OF_REACHED * np.sign(reached), SIGN_OF_MOMENTUM * signs], 1).astype(np.float32)
    return np.concatenate([reached, _expanded(momentum) if momentum.shape[1] else reached], 1)


def channels_fit(channels: int) -> bool:
    """Return whether so many channels may be sent."""
    return channels in (REACHED, CHANNELS)


def _compressed(momentum: Float32) -> Float32:
    size = np.minimum(np.abs(momentum) / np.float32(LARGEST), 1)
    return np.copysign(np.log1p(np.float32(MU) * size) / np.float32(np.log1p(MU)), momentum)


def _expanded(compressed: Float32) -> Float32:
    size = np.expm1(np.abs(compressed) * np.float32(np.log1p(MU))) * np.float32(LARGEST / MU)
    return np.copysign(size, compressed)


def _packed(cells: UInt8, bits: int) -> UInt8:
    each = cells.reshape(*cells.shape[:-1], cells.shape[-1] * bits // 8, 8 // bits)
    packed = np.zeros(each.shape[:-1], np.uint8)
    for place in range(8 // bits):
        packed = (packed << bits).astype(np.uint8) | each[..., place]
    return packed


def _unpacked(packed: UInt8, bits: int) -> UInt8:
    shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
    cells: UInt8 = (packed[..., None] >> shifts) & np.uint8(2**bits - 1)
    return cells.reshape(*packed.shape[:-1], packed.shape[-1] * (8 // bits))
