"""What training wants: that perturbed faces, after what platforms do to them, look like others to the teachers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from apf.models.recogniser import Recogniser
from apf.train import augment
from apf.train.data import Faces
from apf.train.ssim import ssim
from apf.train.teachers import channels_last

#: Similarity to the clean face at which a teacher counts as fooled and pulls no more; below every threshold in use.
ENOUGH = -0.1
#: Teachers asked in a step, and how often each is drawn compared with one that is not named here: those that hold out
#: longest more often, the slow one and the softest less.
ASKED = 3
SHARES = {"openvino_reid0095": 1.6, "mfn_faceplugin": 1.6, "hse_faceres": 0.5, "dlib_resnet": 0.8}
#: Spread of the random affine map that each teacher sees the face through.
AFFINE_STD = 0.04
#: Mean square of the perturbation, in units of epsilon squared, from which on it costs: 32 dB at 8/255.
FREE_POWER, POWER_WEIGHT = 0.62, 3.0
#: Weight of the mean difference of neighbours: rough noise shows more and survives less.
ROUGHNESS_WEIGHT = 0.06
#: Structural dissimilarity, 1 - SSIM, from which on it costs, at 8/255; it grows as this power of epsilon (measured).
FREE_DISSIMILARITY, SSIM_WEIGHT = 0.104, 6.0
REFERENCE_EPSILON, SSIM_GROWTH = 8 / 255, 1.6
#: Most photos run under the standard recipe; the network serves all three.
EPSILONS = (8 / 255, 8 / 255, 8 / 255, 5 / 255, 12 / 255)


@dataclass
class Ensemble:
    """The teachers with their cached embeddings (N, D) of the clean faces, by name."""

    teachers: dict[str, Recogniser]
    clean: dict[str, Tensor]

    def similarity(self, index: Tensor, faces: Tensor, delta: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Cosine (B,) of each drawn teacher between clean and perturbed faces, each through transforms of its own."""
        found = {}
        for name in self._draw(generator):
            teacher = self.teachers[name]
            seen = transformed((faces + delta).clamp(0, 1), generator)
            found[name] = (teacher(channels_last(seen)).float() * self.clean[name][index].to(faces.device)).sum(1)
        return found

    def _draw(self, generator: torch.Generator) -> list[str]:
        names = sorted(self.teachers)
        weights = torch.tensor([SHARES.get(name, 1.0) for name in names])
        drawn = torch.multinomial(weights, min(ASKED, len(names)), generator=generator)
        return [names[i] for i in drawn]


def transformed(faces: Tensor, generator: torch.Generator) -> Tensor:
    """A random alignment, and what platforms do: a smaller size and back, JPEG, or JPEG at the smaller size."""
    faces = augment.affine(faces, AFFINE_STD, generator)
    scale = 0.4 + 0.5 * augment.uniform(generator) if augment.uniform(generator) < 0.35 else 1.0
    seen = augment.smaller(faces, scale) if scale < 1 else faces
    if augment.uniform(generator) < 0.4:
        seen = augment.jpeg(seen, int(60 + 35 * augment.uniform(generator)))
    return augment.enlarged(seen, faces.shape[-1]) if scale < 1 else seen


def fooled(similarities: Sequence[Tensor]) -> Tensor:
    """Hinged similarity, averaged over teachers and faces."""
    return torch.stack([F.relu(similarity - ENOUGH).mean() for similarity in similarities]).mean()


def visible(faces: Tensor, delta: Tensor, epsilon: float) -> Tensor:
    """The price of being seen: power, roughness, and lost structure of the faces (B, 3, 112, 112)."""
    units = delta / epsilon
    power = F.relu(units.square().mean((1, 2, 3)) - FREE_POWER).mean()
    rough = (units.diff(dim=2).abs().mean() + units.diff(dim=3).abs().mean()) / 2
    lost = (1 - ssim(faces, (faces + delta).clamp(0, 1))) / (epsilon / REFERENCE_EPSILON) ** SSIM_GROWTH
    structure = F.relu(lost - FREE_DISSIMILARITY).mean()
    return POWER_WEIGHT * power + ROUGHNESS_WEIGHT * rough + SSIM_WEIGHT * structure


#: Faces (B, 3, 112, 112), epsilon and a generator to a perturbation of the same shape.
Perturb = Callable[[Tensor, float, torch.Generator], Tensor]


def attack_step(
    perturb: Perturb, faces: Faces, ensemble: Ensemble, batch: int, device: str, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """The loss of `perturb(faces, epsilon, generator) -> delta` on a random batch, with figures for the log."""
    index = torch.randint(len(faces), (batch,), generator=generator)
    epsilon = EPSILONS[int(torch.randint(len(EPSILONS), (), generator=generator))]
    seen = faces.batch(index).to(device)
    delta = perturb(seen, epsilon, generator)
    similarities = ensemble.similarity(index, seen, delta, generator)
    total = fooled(list(similarities.values())) + visible(seen, delta, epsilon)
    cosine = torch.stack([s.detach().mean() for s in similarities.values()]).mean().item()
    power = (delta.detach() / epsilon).square().mean().item()
    return total, {"loss": total.item(), "cosine": cosine, "power": power}
