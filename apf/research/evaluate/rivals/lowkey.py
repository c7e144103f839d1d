"""A LowKey-like attack (Cherepanova et al., "LowKey: Leveraging Adversarial Attacks to Protect Social Media Users from
Facial Recognition", ICLR 2021), from the paper.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from apf.research.evaluate.rivals.loop import (
    BATCH,
    Loss,
    ascend,
    embed,
    gradient_of,
    in_batches,
    ready,
    squared_distance,
)
from apf.research.evaluate.rivals.types import Perturb
from apf.research.evaluate.targets import device_of
from apf.research.train.teachers import channels_last

#: Length of a signed step, for pixels in [0, 1].
STEP = 0.0025


def lowkey(
    surrogates: Sequence[nn.Module],
    epsilon: float,
    *,
    steps: int = 25,
    step: float = STEP,
    sigma: float = 3.0,
    window: int = 7,
    batch: int = BATCH,
) -> Perturb:
    """Raise every surrogate's distance between the clean face and the perturbed one, as it is and smoothed.

    What differs from the paper: it bounds the perturbation by LPIPS, whose backbone's weights need a download; here
    epsilon bounds it instead. It takes 50 steps. The smoothed face is also kept away from the smoothed clean one. The
    start is the photo itself, as there: the smoothed term has a gradient, so nothing is drawn at random.

    Args:
        surrogates: recognisers on one device, (B, 3, 112, 112) in [0, 1] to unit embeddings (B, D).
        sigma: standard deviation of the Gaussian, in pixels of the 112.
        window: its side in pixels, odd.
        batch: faces attacked side by side.

    Raises:
        ValueError: there is no surrogate, or epsilon is not in (0, 1], or the window is even.
    """
    models = ready(surrogates)
    if window % 2 == 0:
        raise ValueError(f"window must be odd, not {window}")

    def attack(faces: Tensor, _: list[Generator]) -> Tensor:
        direction = gradient_of(*(_distances(model, faces, sigma, window) for model in models))
        return ascend(faces, torch.zeros_like(faces), direction, epsilon=epsilon, steps=steps, step=step)

    return in_batches(attack, epsilon=epsilon, seed=0, batch=batch, device=device_of(models[0]))


def smoothed(faces: Tensor, sigma: float, window: int) -> Tensor:
    """Faces (B, 3, 112, 112) under a Gaussian."""
    blurred: Tensor = gaussian_blur(faces, [window, window], [sigma, sigma])
    return blurred


def _distances(model: nn.Module, faces: Tensor, sigma: float, window: int) -> Loss:
    clean = embed(model, faces)
    clean_smoothed = embed(model, smoothed(faces, sigma, window))

    def loss(x: Tensor) -> Tensor:
        plain = squared_distance(model(channels_last(x)), clean)
        soft = model(channels_last(smoothed(x, sigma, window)))
        return plain + (squared_distance(soft, clean) + squared_distance(soft, clean_smoothed)) / 2

    return loss
