"""Convolutions by NumPy's matrix product, channels last. Arrays are (H, W, C) float32; kernels are as ONNX has them.

Work goes in bands of rows that fit into a processor's cache: that is what makes it as fast as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

#: Values that are worked on at once: half a megabyte.
BAND_VALUES = 2**17


@dataclass(frozen=True)
class Convolution:
    """A convolution with its kernel laid out for the matrix product.

    Args:
        kernel: (kh, kw, in, out), or (kh, kw, channels) where each channel is its own.
        bias: (out,) or None.
        relu: whether what is below zero becomes zero.
    """

    kernel: Float32
    bias: Float32 | None
    stride: int
    padding: int
    relu: bool = False

    @classmethod
    def of(
        cls, weight: Float32, bias: Float32 | None, *, stride: int, padding: int, groups: int, relu: bool = False
    ) -> Convolution:
        """Of ONNX's (out, in / groups, kh, kw); groups are 1, or as many as there are channels."""
        return cls(_laid_out(weight, groups, (2, 3, 1, 0)), bias, stride, padding, relu)

    def __call__(self, x: Float32) -> Float32:
        """(H, W, in) to (H', W', out)."""
        rows, columns = self.size(x.shape)
        out = np.empty((rows, columns, self.kernel.shape[-1]), np.float32)
        source = _padded(x, self.padding)
        band = max(1, BAND_VALUES // (columns * (self.kernel[..., 0].size if self.kernel.ndim == 4 else out.shape[2])))
        for top in range(0, rows, band):
            self.rows(source, top, out[top : top + band])
        return out

    def size(self, shape: Sequence[int]) -> tuple[int, int]:
        """Rows and columns that come out of (H, W, ...)."""
        rows, columns = (
            (length + 2 * self.padding - side) // self.stride + 1
            for length, side in zip(shape[:2], self.kernel.shape[:2], strict=True)
        )
        return rows, columns

    def rows(self, source: Float32, top: int, out: Float32) -> None:
        """Compute the rows of the result from `top` on, as many as `out` has; `source` is padded already."""
        if self.kernel.ndim == 4:
            self._mix(source, top, out)
            if self.bias is not None:
                out += self.bias
        else:
            self._each(source, top, out)
        if self.relu:
            np.maximum(out, 0, out=out)

    def _mix(self, source: Float32, top: int, out: Float32) -> None:
        """Every output channel from all input channels: columns of patches times the kernel."""
        high, wide, inputs, outputs = self.kernel.shape
        if (high, wide, self.stride) == (1, 1, 1):
            flat = source[top : top + len(out)].reshape(-1, inputs)
            np.matmul(flat, self.kernel[0, 0], out=out.reshape(-1, outputs))
            return
        patches = np.empty((*out.shape[:2], high, wide, inputs), np.float32)
        for i in range(high):
            for j in range(wide):
                patches[:, :, i, j] = self._seen(source, i, j, top, out.shape)
        flat = patches.reshape(-1, high * wide * inputs)
        np.matmul(flat, self.kernel.reshape(-1, outputs), out=out.reshape(-1, outputs))

    def _each(self, source: Float32, top: int, out: Float32) -> None:
        """Every channel by itself."""
        product = np.empty(out.shape, np.float32)
        out[:] = 0 if self.bias is None else self.bias
        for i in range(self.kernel.shape[0]):
            for j in range(self.kernel.shape[1]):
                np.multiply(self._seen(source, i, j, top, out.shape), self.kernel[i, j], out=product)
                out += product

    def _seen(self, source: Float32, i: int, j: int, top: int, size: tuple[int, ...]) -> Float32:
        """Return what the kernel's value (i, j) is multiplied with, for `size` outputs from row `top` on."""
        step = self.stride
        first, last = top * step + i, (top + size[0] - 1) * step + i
        return source[first : last + 1 : step, j : j + (size[1] - 1) * step + 1 : step]


@dataclass(frozen=True)
class InvertedResidual:
    """Three convolutions (Sandler et al. 2018, MobileNetV2): to many channels, each by itself, and to few again.

    The many channels only ever exist for a few rows: a large photo's whole layer would be a hundred megabytes.
    """

    expand: Convolution
    each: Convolution
    project: Convolution

    def __call__(self, x: Float32) -> Float32:
        """(H, W, in) to (H', W', out)."""
        channels, border = self.expand.kernel.shape[-1], self.each.padding
        rows, columns = self.each.size(x.shape)
        out = np.empty((rows, columns, self.project.kernel.shape[-1]), np.float32)
        band = max(1, BAND_VALUES // (columns * channels))
        step, high = self.each.stride, self.each.kernel.shape[0]
        many = np.zeros(((band - 1) * step + high, x.shape[1] + 2 * border, channels), np.float32)
        middle = np.empty((band, columns, channels), np.float32)
        for top in range(0, rows, band):
            some = middle[: min(band, rows - top)]
            first = top * step - border
            wanted = range(max(0, first), min(len(x), first + (len(some) - 1) * step + high))
            if len(wanted) < len(many):
                many[:] = 0  # rows beyond the edge
            inner = np.empty((len(wanted), x.shape[1], channels), np.float32)
            self.expand.rows(x[wanted.start : wanted.stop], 0, inner)
            many[wanted.start - first : wanted.stop - first, border : border + x.shape[1]] = inner
            self.each.rows(many, 0, some)
            self.project.rows(some, 0, out[top : top + len(some)])
        return out


@dataclass(frozen=True)
class TransposedConvolution:
    """The transpose of a `Convolution`: each input value is spread over the kernel's size."""

    #: (in, kh, kw, out), or (kh, kw, channels) where each channel is its own.
    kernel: Float32
    bias: Float32 | None
    stride: int
    padding: int
    output_padding: int

    @classmethod
    def of(
        cls, weight: Float32, bias: Float32 | None, *, stride: int, padding: int, groups: int, output_padding: int
    ) -> TransposedConvolution:
        """Of ONNX's (in, out / groups, kh, kw)."""
        return cls(_laid_out(weight, groups, (0, 2, 3, 1)), bias, stride, padding, output_padding)

    def __call__(self, x: Float32) -> Float32:
        """(H, W, in) to (H', W', out)."""
        high, wide, outputs = self.kernel.shape[-3:]
        rows, columns = x.shape[:2]
        step, cut = self.stride, self.padding
        full = np.zeros(((rows - 1) * step + high, (columns - 1) * step + wide, outputs), np.float32)
        full = np.pad(full, ((0, self.output_padding), (0, self.output_padding), (0, 0)))
        mixed = self.kernel.ndim == 4
        spread = (x.reshape(-1, x.shape[2]) @ self.kernel.reshape(len(self.kernel), -1)) if mixed else x
        spread = spread.reshape(rows, columns, high, wide, outputs) if mixed else spread
        for i in range(high):
            for j in range(wide):
                part = full[i : i + (rows - 1) * step + 1 : step, j : j + (columns - 1) * step + 1 : step]
                part += spread[:, :, i, j] if mixed else spread * self.kernel[i, j]
        found: Float32 = full[cut : len(full) - cut, cut : full.shape[1] - cut]
        return found if self.bias is None else found + self.bias


def _laid_out(weight: Float32, groups: int, axes: tuple[int, int, int, int]) -> Float32:
    """ONNX's kernel with its axes in this order, or (kh, kw, channels) where each channel is its own."""
    if groups == 1:
        return np.ascontiguousarray(weight.transpose(axes))
    if groups == len(weight) and weight.shape[1] == 1:
        return np.ascontiguousarray(weight[:, 0].transpose(1, 2, 0))
    raise NotImplementedError(f"a convolution in {groups} groups of several channels")


def _padded(x: Float32, padding: int) -> Float32:
    if not padding:
        return x
    wider = np.zeros((x.shape[0] + 2 * padding, x.shape[1] + 2 * padding, x.shape[2]), np.float32)
    wider[padding:-padding, padding:-padding] = x
    return wider
