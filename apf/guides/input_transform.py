"""From ArcFace crops to a recogniser's own input, and gradients back: a fixed linear map and its transpose."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from apf.faces.alignment import CROP, Float64
from apf.guides.input_spec import InputSpec

Float32 = NDArray[np.float32]


class Feeding:
    """The map that `apf.guides.torch_recogniser.Recogniser` applies to a face before its network, and its transpose."""

    def __init__(self, spec: InputSpec) -> None:
        self.size = spec.height, spec.width
        self._order = slice(None, None, -1 if spec.channel_order == "BGR" else 1)
        self._mean, self._std = (np.array(one, np.float32).reshape(-1, 1, 1) for one in (spec.mean, spec.std))
        places = spec.places()
        maps: tuple[Any, Any] = (None, None) if places is None else _bilinear(places)
        self._forth, self._back = maps

    def there(self, face: Float32) -> Float32:
        """Return a face (3, 112, 112) in [0, 1] as (1, 3, height, width), as the network takes it."""
        if self._forth is not None:
            face = np.stack([self._forth @ channel.ravel() for channel in face]).reshape(3, *self.size)
        fed: Float32 = (face[self._order] * np.float32(255) - self._mean) / self._std
        return np.ascontiguousarray(fed[None], np.float32)

    def back(self, gradient: Float32) -> Float32:
        """Return the gradient by the network's input, (1, 3, height, width), as that by the face, (3, 112, 112)."""
        found = (gradient[0] * (np.float32(255) / self._std))[self._order]
        if self._back is not None:
            found = np.stack([self._back @ channel.ravel() for channel in found]).reshape(3, CROP, CROP)
        return np.ascontiguousarray(found, np.float32)


def _bilinear(places: Float64) -> tuple[Any, Any]:
    """Return the matrix that samples an ArcFace crop at places (height, width, 2), where beyond its edge all is zero.

    With its transpose.
    """
    x, y = places.reshape(-1, 2).T
    rows, columns, weights = [], [], []
    for down in (0, 1):
        for across in (0, 1):
            left, top = np.floor(x).astype(int) + across, np.floor(y).astype(int) + down
            inside = (left >= 0) & (left < CROP) & (top >= 0) & (top < CROP)
            share = (1 - np.abs(x - left)) * (1 - np.abs(y - top))
            rows.append(np.flatnonzero(inside))
            columns.append((top * CROP + left)[inside])
            weights.append(share[inside])
    entries = np.concatenate(weights).astype(np.float32), (np.concatenate(rows), np.concatenate(columns))
    forth = csr_array(entries, shape=(len(x), CROP * CROP))
    return forth, forth.T.tocsr()
