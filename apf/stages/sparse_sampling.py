"""`apf.stages.affine_sampling` by sparse matrices: a fifth of its time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from apf.stages.affine_sampling import Sampling

Float32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class SparseSampling:
    """A linear map of pictures (side, side, 3), as a matrix of side² by side² and its transpose."""

    forth: Any
    back: Any

    @classmethod
    def of(cls, affine: Float32, side: int) -> SparseSampling:
        """As `Sampling.of`."""
        known, places = Sampling.of(affine, side), side * side
        rows = np.tile(np.arange(places), len(known.pixels))
        forth = csr_array((known.weights.ravel(), (rows, known.pixels.ravel())), shape=(places, places))
        return cls(forth, forth.T.tocsr())

    def sample(self, picture: Float32) -> Float32:
        """(side, side, 3) to (side, side, 3)."""
        found: Float32 = (self.forth @ picture.reshape(-1, 3)).reshape(picture.shape)
        return found

    def spread(self, values: Float32) -> Float32:
        """Return the transpose: each value goes back to the four pixels that it was taken from."""
        found: Float32 = (self.back @ values.reshape(-1, 3)).reshape(values.shape)
        return found
