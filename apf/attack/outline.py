"""The outline of a face in the template: where a change fades out, and where features end."""

from __future__ import annotations

from functools import cache

import numpy as np

from apf.faces.alignment import Float32
from apf.faces.geometry import CROP, Float64

#: Side of a face in template pixels: the middle one of detectors' boxes. A warp's size is a share of it.
FACE_SIDE = 94.0
#: The face's outline in the template: the middle of an ellipse-like curve and its half axes, x and y.
MIDDLE, HALF_AXES, ROUNDNESS = (55.5, 60.0), (51.0, 62.0), 2.5
#: Template pixels over which a perturbation and a warp fade out at the outline, and a perturbation at the crop's edge.
FEATHER, WARP_FEATHER, EDGE = 8.0, 16.0, 4.0
#: Where on the way from the middle to the outline features end, and hair may begin.
FEATURES = (0.6, 0.74)


def _radius(x: Float64, y: Float64) -> Float64:
    """How far template points are on the way from the face's middle, 0, to its outline, 1."""
    away = [np.abs(at - middle) / half for at, middle, half in zip((x, y), MIDDLE, HALF_AXES, strict=True)]
    radius: Float64 = (away[0] ** ROUNDNESS + away[1] ** ROUNDNESS) ** (1 / ROUNDNESS)
    return radius


def rim(matrix: Float64, width: int, height: int) -> Float32:
    """0 on the face's features, 1 around them: (height, width) pixels that `matrix` takes to the template."""
    at = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1) @ matrix[:, :2].T + matrix[:, 2]
    share = (_radius(at[..., 0], at[..., 1]) - FEATURES[0]) / (FEATURES[1] - FEATURES[0])
    found: Float32 = np.clip(share, 0, 1).astype(np.float32)
    return found


@cache
def face_mask(side: int, feather: float = FEATHER) -> Float32:
    """1 on the face, fading to 0 at its outline and at the crop's edge: (side, side), of a crop of that many pixels."""
    at: Float64 = (np.arange(side, dtype=np.float64) + 0.5) * (CROP / side) - 0.5
    inside = (1 - _radius(at[None], at[:, None])) * min(HALF_AXES) / feather
    edge = np.minimum(at + 0.5, CROP - 0.5 - at) / (EDGE if feather == FEATHER else feather)
    mask: Float32 = np.clip(np.minimum(inside, np.minimum(edge[None], edge[:, None])), 0, 1).astype(np.float32)
    return mask
