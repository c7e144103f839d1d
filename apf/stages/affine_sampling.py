"""Bilinear sampling through a fixed affine map, and its transpose: the numpy twin of `apf.stages.grid_sample`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Sampling:
    """A linear map of pictures (side, side, 3): each place takes four pixels, with these weights."""

    #: (4, side * side).
    pixels: NDArray[np.intp]
    weights: Float32
    side: int

    @classmethod
    def of(cls, affine: Float32, side: int) -> Sampling:
        """Of a (2, 3) map, as `torch.nn.functional.affine_grid` and `grid_sample` understand it.

        That is without `align_corners`, and with the border repeated beyond the picture.
        """
        places = (2 * np.arange(side, dtype=np.float32) + 1) / side - 1
        x, y = np.meshgrid(places, places)
        mapped = np.stack([x, y, np.ones_like(x)], -1).reshape(-1, 3) @ affine.T.astype(np.float32)
        u, v = np.clip(((mapped + 1) * side - 1) / 2, 0, side - 1).T
        left, top = np.floor(u).astype(np.intp), np.floor(v).astype(np.intp)
        right, bottom = np.minimum(left + 1, side - 1), np.minimum(top + 1, side - 1)
        across, down = (u - left).astype(np.float32), (v - top).astype(np.float32)
        pixels = np.stack([top * side + left, top * side + right, bottom * side + left, bottom * side + right])
        weights = np.stack([(1 - across) * (1 - down), across * (1 - down), (1 - across) * down, across * down])
        return cls(pixels, weights, side)

    def sample(self, picture: Float32) -> Float32:
        """(side, side, 3) to (side, side, 3)."""
        flat = picture.reshape(-1, 3)
        found = sum(weights[:, None] * flat[pixels] for pixels, weights in zip(self.pixels, self.weights, strict=True))
        return np.asarray(found, np.float32).reshape(picture.shape)

    def spread(self, values: Float32) -> Float32:
        """Return the transpose: each value goes back to the four pixels that it was taken from."""
        flat = values.reshape(-1, 3)
        pixels = self.pixels.ravel()
        colours = [
            np.bincount(pixels, (self.weights * flat[:, colour]).ravel(), len(flat)) for colour in range(flat.shape[1])
        ]
        return np.stack(colours, -1).astype(np.float32).reshape(values.shape)
