"""What the rivals share: batches with a random generator for each face, the bound, and the loop of signed steps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor, nn

from apf.research.evaluate import targets
from apf.research.evaluate.rivals.types import Perturb
from apf.research.evaluate.targets import device_of
from apf.stages.gradient import at_unit_size
from apf.stages.universal import limited

#: Faces attacked side by side.
BATCH = 16

#: Faces on the models' device, and a generator for each, to their perturbations, not yet bounded.
Attack = Callable[[Tensor, list[Generator]], Tensor]
#: Perturbed faces (B, 3, 112, 112) to a number each, (B,).
Loss = Callable[[Tensor], Tensor]
#: Perturbed faces to the direction that raises what the attack wants, both (B, 3, 112, 112).
Gradient = Callable[[Tensor], Tensor]


def in_batches(
    attack: Attack, *, epsilon: float, seed: int, batch: int = BATCH, device: torch.device | None = None
) -> Perturb:
    """Return an attack that takes any number of faces, and keeps its bound whatever it does inside.

    Args:
        epsilon: the bound on pixels in [0, 1].
        batch: faces a call of `attack`.
        device: where the attack's models are; the faces' own if not given.

    Raises:
        ValueError: epsilon is not in (0, 1], or the batch is empty.
    """
    if not 0 < epsilon <= 1:
        raise ValueError(f"epsilon must be in (0, 1], not {epsilon}: give levels / 255")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch}")

    def perturb(faces: Tensor) -> Tensor:
        deltas = [
            attack(chunk.to(device or chunk.device), generators(chunk, seed)).to(faces)
            for chunk in torch.split(faces.detach(), batch)
            if len(chunk)
        ]
        return limited(torch.cat(deltas), epsilon).detach().contiguous() if deltas else torch.zeros_like(faces)

    return perturb


def generators(faces: Tensor, seed: int) -> list[Generator]:
    """Return a generator for each face, seeded by the seed and the face's own pixels: batch mates and order do not
    matter.
    """
    pixels = faces.detach().cpu().contiguous()
    digests = (hashlib.sha256(seed.to_bytes(8, "big", signed=True) + face.numpy().tobytes()) for face in pixels)
    return [Generator().manual_seed(int.from_bytes(digest.digest()[:7], "big")) for digest in digests]


def uniform_noise(faces: Tensor, draws: Sequence[Generator], size: float) -> Tensor:
    """Uniform numbers in [-size, size] of the faces' shape, each face's from its own generator."""
    noise = torch.stack([torch.rand(face.shape, generator=draw) for face, draw in zip(faces, draws, strict=True)])
    return (size * (2 * noise - 1)).to(faces)


def projected(delta: Tensor, faces: Tensor, epsilon: float) -> Tensor:
    """Return the perturbation within epsilon and such that the perturbed face stays within [0, 1]."""
    return limited(delta, epsilon).clamp(min=-faces, max=1 - faces)


def ascend(
    faces: Tensor,
    start: Tensor,
    gradient: Gradient,
    *,
    epsilon: float,
    steps: int,
    step: float,
    momentum: float = 0.0,
) -> Tensor:
    """Signed steps uphill from `start`. The momentum adds up each face's gradient at unit mean absolute value.

    Args:
        faces: (B, 3, 112, 112) in [0, 1].
        start: (B, 3, 112, 112), the first perturbation.
        step: length of a step, in pixels in [0, 1].

    Returns:
        (B, 3, 112, 112), within epsilon and the pixel range.
    """
    delta = projected(start, faces, epsilon)
    velocity = torch.zeros_like(delta)
    for _ in range(steps):
        velocity = momentum * velocity + at_unit_size(gradient(faces + delta))
        delta = projected(delta + step * velocity.sign(), faces, epsilon)
    return delta


def gradient_of(*losses: Loss) -> Gradient:
    """Return the gradient of the losses' sum. One model's graph is kept at a time, so an ensemble fits into memory."""

    def gradient(seen: Tensor) -> Tensor:
        total = torch.zeros_like(seen)
        for loss in losses:
            with torch.enable_grad():
                x = seen.detach().requires_grad_(True)
                (found,) = torch.autograd.grad(loss(x).sum(), x)
            total += found
        return total

    return gradient


def embed(model: nn.Module, faces: Tensor) -> Tensor:
    """Embeddings (N, D), on the model's device, of faces (N, 3, 112, 112); no gradient flows through them."""
    return targets.embed(model, faces, BATCH).to(device_of(model))


def squared_distance(embeddings: Tensor, others: Tensor) -> Tensor:
    """Squared L2 distance (B,) of (B, D) and (B, D); between 0 and 4 for unit embeddings."""
    return (embeddings - others).square().sum(1)


def ready(models: Sequence[nn.Module]) -> list[nn.Module]:
    """Return the same models, set up to be attacked: frozen, in eval mode, in the memory layout that is quickest."""
    if not models:
        raise ValueError("no model to attack: give at least one recogniser")
    for model in models:
        model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    return list(models)
