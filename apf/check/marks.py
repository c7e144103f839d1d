"""Marks: the cosine from which a recogniser takes two faces for one person's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from apf.faces.alignment import Float32

#: Shares of pairs of different people that may be matched by mistake.
USUAL, STRICT = 1e-2, 1e-3
#: Fewer pairs of different people say nothing of where a mark lies.
LEAST_PAIRS = 10


@dataclass(frozen=True)
class Marks:
    """Cosines from which two faces are taken for one person's."""

    #: Where one pair of strangers in a hundred is matched by mistake, or as the user gave it.
    usual: float
    #: Where one in a thousand is; None where it is not known.
    strict: float | None
    #: "known": measured among strangers by this project; "given": by the user; "estimated": from the user's own photos.
    origin: Literal["known", "given", "estimated"]
    #: Of different people, that it was estimated from.
    pairs: int = 0

    @property
    def rough(self) -> bool:
        """Whether too few pairs were there for its rate to be told."""
        return self.origin == "estimated" and self.pairs * USUAL < 1


def estimated(strangers: Float32) -> Marks | None:
    """Return marks from the cosines of pairs of different people, (N,); None where there are too few of them.

    With fewer than a hundred, no pair of them may reach the mark.
    """
    if len(strangers) < LEAST_PAIRS:
        return None
    falling = np.sort(strangers)[::-1]

    def mark(rate: float) -> float:
        allowed = int(len(falling) * rate)
        return float(np.nextafter(falling[allowed], np.float32(2), dtype=np.float32))

    strict = mark(STRICT) if len(falling) * STRICT >= 1 else None
    return Marks(mark(USUAL), strict, "estimated", len(falling))
