"""Gradients as small whole numbers: what leaves the device, and what the server makes of it. Numpy only.

A value is first brought into [-1, 1]: the perturbation reached lies there already; the momentum, whose few large values
are a hundred times its many small ones, goes through the mu-law of telephony (ITU-T G.711's idea, continuous). That
range is cut into 2**bits equal cells, numbered from 0, and a value becomes the number of its cell; what is read back is
the middle of the cell. With one bit only the sign is left.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
UInt8 = NDArray[np.uint8]

#: Bits a value; several fill a byte, the first in its highest bits.
BITS = (1, 2, 4, 8)
#: The mu-law's constant, and the largest momentum that it holds apart, in units of its root mean square: on 60 faces
#: none was larger.
MU, LARGEST = 255.0, 24.0
#: The first three channels are the perturbation reached, the others the momentum.
REACHED = 3


def quantise(gradients: Float32, bits: int) -> UInt8:
    """The gradients' cells, packed.

    Args:
        gradients: (n, 6, 112, 112) float32, as `apf.gradient.gradient` gives them.
        bits: one of `BITS`.

    Returns:
        (n, 6, 112, 14 * bits) uint8.
    """
    cells = np.floor((_squeezed(gradients) + 1) * (2**bits / 2))
    return _packed(np.clip(cells, 0, 2**bits - 1).astype(np.uint8), bits)


def dequantise(packed: UInt8, bits: int) -> Float32:
    """The middles of the cells, (n, 6, 112, 112) float32: the inverse of `quantise`, up to half a cell."""
    middles: Float32 = (_unpacked(packed, bits).astype(np.float32) * 2 + 1) / 2**bits - 1
    middles[:, REACHED:] = _expanded(middles[:, REACHED:])
    return middles


def _squeezed(gradients: Float32) -> Float32:
    squeezed: Float32 = np.array(gradients, np.float32)
    squeezed[:, REACHED:] = _compressed(squeezed[:, REACHED:])
    return squeezed


def _compressed(momentum: Float32) -> Float32:
    size = np.minimum(np.abs(momentum) / np.float32(LARGEST), 1)
    return np.copysign(np.log1p(np.float32(MU) * size) / np.float32(np.log1p(MU)), momentum)


def _expanded(compressed: Float32) -> Float32:
    size = np.expm1(np.abs(compressed) * np.float32(np.log1p(MU))) * np.float32(LARGEST / MU)
    return np.copysign(size, compressed)


def _packed(cells: UInt8, bits: int) -> UInt8:
    each = cells.reshape(*cells.shape[:-1], -1, 8 // bits)
    packed = np.zeros(each.shape[:-1], np.uint8)
    for place in range(8 // bits):
        packed = (packed << bits).astype(np.uint8) | each[..., place]
    return packed


def _unpacked(packed: UInt8, bits: int) -> UInt8:
    shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
    cells: UInt8 = (packed[..., None] >> shifts) & np.uint8(2**bits - 1)
    return cells.reshape(*packed.shape[:-1], -1)
