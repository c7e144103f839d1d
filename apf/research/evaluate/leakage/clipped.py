"""The clipped-noise leak: noise that was cut to the pixel range shows where the photo is black or white.

A black pixel cannot become darker. Where noise was taken after the cut, it is never negative there, and never positive
on white. The rule that is tried needs no training and no probe: the higher the noise around a pixel, the blacker it is,
and the lower, the whiter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from apf.research.evaluate.conditions import eight_bits
from apf.research.evaluate.kinds import KINDS
from apf.research.evaluate.leakage.verify import auc
from apf.research.evaluate.rivals.loop import generators
from apf.research.evaluate.rivals.released import probe_noise
from apf.stages.probe import Probe

#: What is looked at: normal, under-exposed and over-exposed faces.
LIGHTS = ("as it is", "dark", "overexposed")
#: Side of the square around a pixel, of the same colour, over which its noise is averaged.
WINDOW = 5
#: Faces (N, 3, 112, 112) in [0, 1] to noise of the same shape.
Noise = Callable[[Tensor], Tensor]


class Shown(BaseModel):
    """What a rule on the noise alone says of the pixels that are within epsilon of an end of their range."""

    model_config = ConfigDict(frozen=True)

    noise: str
    kind: str
    end: str
    #: How many of all pixels lie there, in percent.
    share: float
    #: Of the rule; 0.5 is guessing.
    auc: float
    #: Mean noise of these pixels, in units of epsilon, counted away from the end; None where there are no such pixels.
    away: float | None


def shown(faces: Tensor, noises: Mapping[str, Noise], epsilon: float) -> list[Shown]:
    """All noises on all lights, at both ends.

    Args:
        faces: (N, 3, 112, 112) in [0, 1].
        epsilon: the bound on the noise, in units of [0, 1] pixels.
    """
    found = []
    for kind in LIGHTS:
        seen = eight_bits(KINDS[kind](faces)).float() / 255
        ends = {"black": seen < epsilon, "white": seen > 1 - epsilon}
        for name, noise in noises.items():
            made = noise(seen)
            for end, there in ends.items():
                found.append(_shown(name, kind, end, made if end == "black" else -made, there))
    return found


def around(noise: Tensor) -> Tensor:
    """Return the mean within the window around each pixel, (N, 3, H, W)."""
    return F.avg_pool2d(noise, WINDOW, 1, WINDOW // 2, count_include_pad=False)


def released(probe: Probe, epsilon: float, seed: int) -> Noise:
    """Return what a device sends by the original method: ten steps, taken after the cut to the pixel range."""

    def noise(faces: Tensor) -> Tensor:
        with torch.no_grad():
            return probe_noise(probe, faces, faces, generators(faces, seed), epsilon=epsilon)

    return noise


def _shown(noise: str, kind: str, end: str, away: Tensor, there: Tensor) -> Shown:
    score = around(away)
    return Shown(
        noise=noise,
        kind=kind,
        end=end,
        share=100 * there.float().mean().item(),
        auc=auc(score[there], score[~there]),
        away=away[there].mean().item() if there.any() else None,
    )
