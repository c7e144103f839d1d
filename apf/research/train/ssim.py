"""Structural similarity that gradients flow through."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

#: Wang et al., "Image Quality Assessment", IEEE TIP 2004: Gaussian window, and constants for a range of one.
SIGMA, WINDOW = 1.5, 11
C1, C2 = 0.01**2, 0.03**2


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean SSIM (B,) over channels and pixels of (B, 3, H, W) and (B, 3, H, W) in [0, 1], where the window fits.

    In float32 whatever autocast says: variances are small differences of large numbers.
    """
    with torch.autocast(a.device.type, enabled=False):
        return _ssim(a.float(), b.float())


def _ssim(a: Tensor, b: Tensor) -> Tensor:
    mean_a, mean_b = _local_mean(a), _local_mean(b)
    variance_a = _local_mean(a * a) - mean_a.square()
    variance_b = _local_mean(b * b) - mean_b.square()
    covariance = _local_mean(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + C1) / (mean_a.square() + mean_b.square() + C1)
    structure = (2 * covariance + C2) / (variance_a + variance_b + C2)
    return (luminance * structure).mean((1, 2, 3))


def dssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural dissimilarity (B,), (1 - SSIM) / 2: 0 for equal pictures."""
    return (1 - ssim(a, b)) / 2


def _local_mean(x: Tensor) -> Tensor:
    edge = WINDOW // 2
    blurred: Tensor = gaussian_blur(x, [WINDOW, WINDOW], [SIGMA, SIGMA])
    return blurred[..., edge:-edge, edge:-edge]
