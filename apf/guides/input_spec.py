"""Input specification of recognisers. Without torch."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from apf.faces.alignment import ARCFACE_TEMPLATE, CROP, Float64, alignment

#: Template coordinates closer than this (pixels) count as equal: no warp is needed.
SAME_TEMPLATE_PX = 1e-2


class InputSpec(BaseModel):
    """How to feed a recogniser. The defaults are those of InsightFace's ArcFace models."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    height: int = Field(default=CROP, ge=16, le=1024)
    width: int = Field(default=CROP, ge=16, le=1024)
    channel_order: Literal["RGB", "BGR"] = "RGB"
    #: Subtracted from pixels in 0..255; one number, or one a channel in the model's own order.
    mean: tuple[float, ...] = (127.5,)
    std: tuple[float, ...] = (127.5,)
    #: Left eye, right eye, nose tip, left and right mouth corner, in pixels of the model's input.
    landmarks_xy: tuple[tuple[float, float], ...] = tuple((float(x), float(y)) for x, y in ARCFACE_TEMPLATE)

    def places(self) -> Float64 | None:
        """Where in the ArcFace crop each pixel of the model's crop lies, (height, width, 2); None where they agree."""
        own = np.asarray(self.landmarks_xy, dtype=np.float64)
        same_size = (self.height, self.width) == (CROP, CROP)
        if same_size and np.abs(own - np.asarray(ARCFACE_TEMPLATE)).max() < SAME_TEMPLATE_PX:
            return None
        xs, ys = np.meshgrid(np.arange(self.width), np.arange(self.height))
        found: Float64 = np.stack([xs, ys, np.ones_like(xs)], axis=-1) @ alignment(own).T
        return found
