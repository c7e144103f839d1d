"""What is seen of protection on a face, at the photo's own resolution, with the warp undone; and how far it shifts."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np
from pydantic import BaseModel, ConfigDict

from apf.attack.outline import face_mask
from apf.attack.perturbation import Change, shifts
from apf.faces.alignment import CROP, Box, UInt8
from apf.research.evaluate.metrics import luma_ssim
from apf.research.evaluate.whole_photos.boxes import box_side
from apf.research.evaluate.whole_photos.scielab import difference, seen_difference

#: How much around a face an eye's blur looks at, in sides of its box.
AROUND = 0.5
#: Sides of a picture that has an SSIM, at least.
WINDOW = 7


class Looks(BaseModel):
    """What is seen on a face's box, or its mean over faces. All but `ssim_warped` is with the warp undone."""

    model_config = ConfigDict(frozen=True)

    #: CIEDE2000: mean and 95th percentile over the pixels.
    colour_mean: float
    colour_95: float
    #: The same after an eye's blur (`apf.research.evaluate.whole_photos.scielab`).
    seen_mean: float
    seen_95: float
    #: Of luma, at the photo's own resolution.
    ssim: float
    ssim_warped: float
    #: How far points of the face shift, in percent of its side: mean and largest.
    shift_mean: float
    shift_most: float

    @classmethod
    def mean(cls, several: Sequence[Looks]) -> Looks | None:
        """Of faces, each counting the same; `shift_most` stays the largest. None of nobody."""
        if not several:
            return None
        means = {name: fmean(getattr(one, name) for one in several) for name in cls.model_fields}
        return cls(**means | {"shift_most": max(one.shift_most for one in several)})


def looks_of(
    clean: UInt8, still: UInt8, warped: UInt8, box: Box, change: Change | None = None, warp: float = 0.0
) -> Looks | None:
    """Return what is seen at a face's box; None where it is too small to tell.

    Args:
        clean: (H, W, 3) uint8 RGB, unprotected.
        still: protected but for the warp.
        warped: protected.
        change: what was done to the face.
        warp: the largest shift, as a share of the face's side.
    """
    height, width = clean.shape[:2]
    x1, y1, x2, y2 = (round(edge) for edge in box)
    margin = round(AROUND * box_side(box))
    left, top = max(0, x1 - margin), max(0, y1 - margin)
    around = np.s_[top : min(height, y2 + margin), left : min(width, x2 + margin)]
    inside = np.s_[max(0, y1) - top : min(height, y2) - top, max(0, x1) - left : min(width, x2) - left]
    if min(clean[around][inside].shape[:2], default=0) < WINDOW:
        return None
    colour = difference(clean[around][inside], still[around][inside])
    seen = seen_difference(clean[around], still[around])[inside]
    shift = _shift(change, warp)
    return Looks(
        colour_mean=float(colour.mean()),
        colour_95=float(np.percentile(colour, 95)),
        seen_mean=float(seen.mean()),
        seen_95=float(np.percentile(seen, 95)),
        ssim=luma_ssim(clean[around][inside], still[around][inside], WINDOW),
        ssim_warped=luma_ssim(clean[around][inside], warped[around][inside], WINDOW),
        shift_mean=float(shift.mean()),
        shift_most=float(shift.max()),
    )


def _shift(change: Change | None, warp: float) -> np.ndarray:
    """How far the points inside a face's outline shift, in percent of its side."""
    if change is None or change.field is None:
        return np.zeros(1)
    found: np.ndarray = 100 * warp * np.linalg.norm(shifts(change.field), axis=-1)[face_mask(CROP) > 0]
    return found
