"""The random part of a step: what each view goes through. Drawn here, in one order, whatever does the steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apf.attack.outline import FACE_SIDE
from apf.faces.alignment import ARCFACE_TEMPLATE, alignment
from apf.faces.geometry import CROP, Float64

#: Spread of the landmarks as another detector finds them, in sides of the face.
JITTER = 0.02
#: Spread of each view's affine map.
AFFINE_STD = 0.03
#: JPEG qualities that a view goes through, half of the time.
QUALITIES = (70, 95)
#: Sigmas of the softness that a view has, half of the time.
SOFT = (0.4, 1.5)
#: Guides that a step climbs on at most.
A_STEP = 2


@dataclass(frozen=True, eq=False)
class ViewNoise:
    """How a view differs from the plain one."""

    mirrored: bool
    #: (5, 2), of the landmarks, and (2, 3), of the affine map: standard normal.
    landmarks: Float64
    affine: Float64

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> ViewNoise:
        return cls(rng.random() < 0.5, rng.standard_normal((5, 2)), rng.standard_normal((2, 3)))

    @property
    def view(self) -> Float64:
        """(2, 3), template pixels to those of a crop by other landmarks and under a small affine map."""
        mirror = np.diag([-1.0, 1.0]) if self.mirrored else np.eye(2)
        fit = alignment(ARCFACE_TEMPLATE + JITTER * FACE_SIDE * self.landmarks)
        small = np.hstack([np.eye(2), np.zeros((2, 1))]) + AFFINE_STD * self.affine
        small[:, :2] = mirror @ small[:, :2]
        middle = (CROP - 1) / 2
        shift = middle + small[:, 2] * CROP / 2 - small[:, :2] @ (middle, middle)
        view: Float64 = np.hstack([small[:, :2], shift[:, None]]) @ np.vstack([fit, (0, 0, 1)])
        return view


@dataclass(frozen=True, eq=False)
class Chance:
    """All that is random in one step of one face."""

    #: JPEG quality; 0 is no JPEG.
    quality: int
    noise: ViewNoise
    #: Sigma of the softness; 0 is none.
    soft: float
    #: The guides that the step climbs on, by number, in order.
    chosen: tuple[int, ...]

    @classmethod
    def drawn(cls, rng: np.random.Generator, guides: int) -> Chance:
        """Draw a step's, for so many guides."""
        quality = int(rng.integers(QUALITIES[0], QUALITIES[1] + 1)) if rng.random() < 0.5 else 0
        noise = ViewNoise.drawn(rng)
        soft = float(rng.uniform(*SOFT)) if rng.random() < 0.5 else 0.0
        return cls(quality, noise, soft, tuple(int(one) for one in rng.permutation(guides)[:A_STEP]))


def random_view(rng: np.random.Generator) -> Float64:
    """(2, 3), template pixels to those of a crop by other landmarks and under a small affine map."""
    return ViewNoise.drawn(rng).view
