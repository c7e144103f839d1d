"""Noise that knows nothing of faces: what any attack has to beat."""

from __future__ import annotations

from apf.research.evaluate.rivals.loop import in_batches, uniform_noise
from apf.research.evaluate.rivals.types import Perturb


def noise(epsilon: float, seed: int) -> Perturb:
    """Uniform noise in [-epsilon, epsilon]."""
    return in_batches(lambda faces, draws: uniform_noise(faces, draws, epsilon), epsilon=epsilon, seed=seed)


def sign_noise(epsilon: float, seed: int) -> Perturb:
    """Every value +epsilon or -epsilon: the most noise that the bound allows (30.1 dB at 8/255)."""
    return in_batches(
        lambda faces, draws: epsilon * uniform_noise(faces, draws, 1.0).sign(), epsilon=epsilon, seed=seed
    )
