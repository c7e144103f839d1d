"""Measure how much of a face's likeness is left, by recognisers and as it would be published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from apf.attack.chances import random_view
from apf.attack.gradient_steps import TINY, Climb, identity, rendered, seen_by, through_jpeg
from apf.faces.alignment import Float32
from apf.faces.geometry import Float64
from apf.runtime.cores import with_idle_cores

if TYPE_CHECKING:
    from apf.guides.guide import Guide

#: JPEG quality that the jury sees the face through, and the views besides the plain one.
QUALITY, VIEWS = 85, 2


@dataclass(frozen=True)
class Verdict:
    """The jury's verdict on one protected face."""

    #: The largest likeness that a juror sees, in units of what it takes for one person: from 1 on it knows the face.
    likeness: float
    #: Whether the jurors are other recognisers than those that the steps climbed on.
    independent: bool

    @property
    def weak(self) -> bool:
        """Whether a juror still knows the face."""
        return not self.likeness < 1  # no number is no word that it is safe


def verdict(face: Climb, jury: Sequence[Guide], known: Sequence[Float32], *, independent: bool) -> Verdict:
    """Return the verdict on a face as it stands: drawn, through JPEG, aligned as it was and by other landmarks.

    Args:
        known: each juror's identity of the face as it was (`apf.attack.gradient_steps.identity`).
        independent: the jurors were not climbed on.
    """
    image = through_jpeg(rendered(face.canvas, face.change, face.allowed, grey=face.grey), QUALITY)
    whole = np.vstack([face.canvas.matrix, (0, 0, 1)])
    crops = [seen_by(image, view @ whole) for view in jury_views()]
    asked = [(juror, own, crop) for juror, own in zip(jury, known, strict=True) for crop in crops]
    found = with_idle_cores(_likeness, asked)
    return Verdict(float(np.max(found)) if found else float("inf"), independent)


def jury_views() -> list[Float64]:
    """Return the views of its own that a jury looks through: being judged does not change the steps that follow."""
    rng = np.random.default_rng(0)
    return [np.eye(2, 3), *(random_view(rng) for _ in range(VIEWS))]


def _likeness(asked: tuple[Guide, Float32, Float32]) -> float:
    """Return how like its own identity a juror finds a crop, in units of its threshold."""
    juror, own, crop = asked
    return float(identity(juror, crop) @ own) / max(juror.threshold, TINY)
