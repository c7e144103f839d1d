"""How much a picture changed, and how sure a share of so many people is.

There is no LPIPS: the libraries that offer it fetch its network's weights from elsewhere on first use.
"""

from __future__ import annotations

import math

import numpy as np
from pydantic import BaseModel, ConfigDict
from skimage.metrics import structural_similarity
from torch import Tensor

from apf.attack.bound import LUMA
from apf.faces.alignment import UInt8
from apf.protect.quality import psnr_db

#: The two-sided 95 % quantile of the normal distribution.
Z_95 = 1.959963984540054


class Rate(BaseModel):
    """A share of people in percent, with its Wilson 95 % interval."""

    model_config = ConfigDict(frozen=True)

    percent: float
    low: float
    high: float

    @classmethod
    def of(cls, hits: Tensor) -> Rate:
        """Return the share of true values among (N,) bool; N must not be 0."""
        count = int(hits.sum())
        low, high = wilson(count, len(hits))
        return cls(percent=100 * count / len(hits), low=100 * low, high=100 * high)


def wilson(count: int, total: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927), both ends in [0, 1].

    Raises:
        ValueError: there is nobody, or more hits than people.
    """
    if not 0 <= count <= total or not total:
        raise ValueError(f"no share: {count} of {total}")
    share, weight = count / total, z * z / total
    middle = (share + weight / 2) / (1 + weight)
    reach = z * math.sqrt(share * (1 - share) / total + weight / (4 * total)) / (1 + weight)
    # At 0 and at 1 the ends meet the share but for rounding.
    return max(0.0, min(share, middle - reach)), min(1.0, max(share, middle + reach))


def psnr(clean: Tensor, seen: Tensor) -> float | None:
    """Mean over faces of the peak signal-to-noise ratio in dB; None where nothing changed at all.

    Args:
        clean: (N, 3, H, W) uint8, as is `seen`. A face that did not change is left out of the mean.
    """
    each = [psnr_db(a, b) for a, b in zip(_pictures(clean), _pictures(seen), strict=True)]
    changed = [one for one in each if math.isfinite(one)]
    return float(np.mean(changed)) if changed else None


def ssim(clean: Tensor, seen: Tensor) -> float:
    """Mean over faces of the structural similarity (scikit-image, windows of 7x7, each channel by itself).

    Args:
        clean: (N, 3, H, W) uint8, as is `seen`; sides of 7 at least.
    """
    both = zip(_pictures(clean), _pictures(seen), strict=True)
    return float(np.mean([_similarity(a, b) for a, b in both]))


def luma_ssim(a: UInt8, b: UInt8, window: int) -> float:
    """Return the structural similarity of the lumas of two pictures (H, W, 3) uint8, in windows of this side."""
    return float(structural_similarity(a @ LUMA, b @ LUMA, data_range=255, win_size=window))  # type: ignore[no-untyped-call]


def _similarity(a: np.ndarray, b: np.ndarray) -> float:
    return float(structural_similarity(a, b, channel_axis=2, data_range=255))  # type: ignore[no-untyped-call]


def _pictures(faces: Tensor) -> np.ndarray:
    pictures: np.ndarray = faces.permute(0, 2, 3, 1).contiguous().numpy()
    return pictures
