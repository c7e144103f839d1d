"""PGD and MI-DI: signed steps away from the photo's own embedding, on one model or several.

PGD: Madry et al., ICLR 2018. MI: Dong et al., CVPR 2018. DI: Xie et al., CVPR 2019; the random affine map for each
surrogate is the one of DPA (Diverse Parameters Augmentation, 2025).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from apf.research.evaluate.rivals.loop import BATCH, Loss, ascend, embed, gradient_of, in_batches, ready, uniform_noise
from apf.research.evaluate.rivals.types import Perturb
from apf.research.evaluate.targets import device_of
from apf.research.train.augment import affine
from apf.research.train.teachers import channels_last

#: How far all steps together would go in one direction, in units of epsilon: the strongest of 1.25, 2.5 and 4 against
#: recognisers that were not attacked (ten steps from a start of up to epsilon, 16 people).
REACH = 4.0


def momentum_attack(
    surrogates: Sequence[nn.Module],
    epsilon: float,
    steps: int,
    *,
    momentum: float = 1.0,
    diversity: float = 0.04,
    step: float | None = None,
    seed: int,
    batch: int = BATCH,
) -> Perturb:
    """Lower the cosine of each surrogate between the perturbed and the clean face, all surrogates counting alike.

    With momentum and diversity 0 it is PGD, with its defaults MI-DI. It starts from seeded noise: at the photo itself
    the gradient is zero.

    Args:
        surrogates: recognisers on one device, (B, 3, 112, 112) in [0, 1] to embeddings (B, D).
        momentum: share of the former steps' direction that each step keeps.
        diversity: standard deviation of the random affine map through which a surrogate sees a face, drawn anew in
            each step for each surrogate and face.
        step: length of a step; `REACH` epsilon / steps if not given.
        batch: faces attacked side by side.

    Raises:
        ValueError: there is no surrogate, no step, or epsilon is not in (0, 1].
    """
    models = ready(surrogates)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    length = REACH * epsilon / steps if step is None else step

    def attack(faces: Tensor, draws: list[Generator]) -> Tensor:
        direction = gradient_of(*(_away(model, faces, diversity, draws) for model in models))
        return ascend(
            faces,
            uniform_noise(faces, draws, epsilon),
            direction,
            epsilon=epsilon,
            steps=steps,
            step=length,
            momentum=momentum,
        )

    return in_batches(attack, epsilon=epsilon, seed=seed, batch=batch, device=device_of(models[0]))


def _away(model: nn.Module, faces: Tensor, diversity: float, draws: Sequence[Generator]) -> Loss:
    own = embed(model, faces)
    return lambda x: -F.cosine_similarity(model(channels_last(_diverse(x, diversity, draws))), own)


def _diverse(faces: Tensor, std: float, draws: Sequence[Generator]) -> Tensor:
    """Each face under an affine map from its own generator."""
    if not std:
        return faces
    return torch.cat([affine(face[None], std, draw) for face, draw in zip(faces, draws, strict=True)])
