"""What training wants: that perturbed faces, after what platforms do to them, look like others to the teachers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from apf.guides.torch_recogniser import Recogniser
from apf.research.train import augment
from apf.research.train.data import Faces
from apf.research.train.ssim import ssim
from apf.research.train.teachers import channels_last
from apf.research.train.whole_photo import pasted

#: Likeness to the clean face (1 the same, 0 as alike as strangers are) at which a teacher counts as fooled and
#: pulls no more, and the weight of its square above that: faces that are still known pull hardest.
ENOUGH, FOOLED_WEIGHT = -0.05, 1.4
#: Teachers asked in a step, and how often each is drawn compared with one that is not named here: those that hold out
#: longest more often, the slow one and the softest less.
ASKED = 4
SHARES = {"openvino_reid0095": 1.8, "mfn_faceplugin": 1.6, "hse_faceres": 0.3, "dlib_resnet": 0.5}
#: Spread of the random affine map through which a teacher sees a face that was not pasted.
AFFINE_STD = 0.04
#: Mean square of the perturbation, in units of epsilon squared, from which on it costs: 31.8 dB at 8/255.
FREE_POWER, POWER_WEIGHT = 0.67, 3.0
#: Weight of the mean difference of neighbours: rough noise shows more and survives less.
ROUGHNESS_WEIGHT = 0.06
#: Structural dissimilarity, 1 - SSIM, from which on it costs, at 8/255; it grows as this power of epsilon (measured).
FREE_DISSIMILARITY, SSIM_WEIGHT = 0.113, 6.0
REFERENCE_EPSILON, SSIM_GROWTH = 8 / 255, 1.6
#: Share of what teachers see that went through a whole photo (`apf.research.train.whole_photo`).
PASTED = 0.5
#: Shares of grey and of over-exposed faces, and how far exposure goes.
GREY, OVEREXPOSED, LARGEST_EXPOSURE = 0.08, 0.12, 1.8
#: Most photos run under the standard recipe; the network serves all three.
EPSILONS = (8 / 255, 8 / 255, 8 / 255, 5 / 255, 12 / 255)


@dataclass
class Ensemble:
    """The teachers with their cached embeddings (N, D) of the clean faces, by name."""

    teachers: dict[str, Recogniser]
    clean: dict[str, Tensor]

    def likeness(
        self, index: Tensor, faces: Tensor, delta: Tensor, epsilon: float, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """How alike (B,) each drawn teacher finds cached clean faces and perturbed ones, through transforms of its own.

        `faces` may have lost their colour or be over-exposed; the cached ones have not.

        The cosine on a scale on which the same face has 1 and strangers have 0 on average: raw, it is 0.85 for one
        teacher's strangers and 0 for another's.
        """
        found = {}
        for name in self._draw(generator):
            if augment.uniform(generator) < PASTED:
                seen = pasted(faces, delta, epsilon, generator)
            else:
                seen = transformed((faces + delta).clamp(0, 1), generator)
            clean = self.clean[name][index].to(faces.device)
            cosine = (self.teachers[name](channels_last(seen)).float() * clean).sum(1)
            found[name] = (cosine - self.strangers[name]) / (1 - self.strangers[name])
        return found

    @cached_property
    def strangers(self) -> dict[str, float]:
        """The mean cosine of two different clean faces, by teacher."""
        found = {}
        for name, clean in self.clean.items():
            count = len(clean)
            found[name] = (float(clean.sum(0).square().sum()) - count) / (count * (count - 1))
        return found

    def _draw(self, generator: torch.Generator) -> list[str]:
        names = sorted(self.teachers)
        weights = torch.tensor([SHARES.get(name, 1.0) for name in names])
        drawn = torch.multinomial(weights, min(ASKED, len(names)), generator=generator)
        return [names[i] for i in drawn]


def transformed(faces: Tensor, generator: torch.Generator) -> Tensor:
    """Return a random alignment, and what platforms do: a smaller size and back, JPEG, or JPEG at the smaller size."""
    faces = augment.affine(faces, AFFINE_STD, generator)
    scale = 0.4 + 0.5 * augment.uniform(generator) if augment.uniform(generator) < 0.35 else 1.0
    seen = augment.smaller(faces, scale) if scale < 1 else faces
    if augment.uniform(generator) < 0.4:
        seen = augment.jpeg(seen, int(60 + 35 * augment.uniform(generator)))
    return augment.enlarged(seen, faces.shape[-1]) if scale < 1 else seen


def varied(faces: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Faces (B, 3, 112, 112) as photos are: some grey, some over-exposed; and which of them are grey (B, 1, 1, 1)."""
    chances = torch.rand(2, len(faces), 1, 1, 1, generator=generator).to(faces)
    gain = 1 + (LARGEST_EXPOSURE - 1) * torch.rand(len(faces), 1, 1, 1, generator=generator).to(faces)
    faces = torch.where(chances[0] < OVEREXPOSED, (faces * gain).clamp(max=1), faces)
    grey = chances[1] < GREY
    return torch.where(grey, augment.luma(faces), faces), grey


def fooled(likenesses: Sequence[Tensor]) -> Tensor:
    """Squared hinge on likeness, averaged over teachers and faces."""
    return FOOLED_WEIGHT * torch.stack([F.relu(likeness - ENOUGH).square().mean() for likeness in likenesses]).mean()


def visible(faces: Tensor, delta: Tensor, epsilon: float) -> Tensor:
    """Return the price of being seen: power, roughness, and lost structure of the faces (B, 3, 112, 112)."""
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
    """Return the loss of `perturb(faces, epsilon, generator) -> delta` on a random batch, with figures for the log."""
    index = torch.randint(len(faces), (batch,), generator=generator)
    epsilon = EPSILONS[int(torch.randint(len(EPSILONS), (), generator=generator))]
    seen, grey = varied(faces.batch(index).to(device), generator)
    delta = perturb(seen, epsilon, generator).float()  # a network's answer is bfloat16 under autocast
    delta = torch.where(grey, delta.mean(1, keepdim=True), delta)  # a grey photo stays grey
    likenesses = ensemble.likeness(index, seen, delta, epsilon, generator)
    total = fooled(list(likenesses.values())) + visible(seen, delta, epsilon)
    alike = torch.stack([s.detach().mean() for s in likenesses.values()]).mean().item()
    power = (delta.detach() / epsilon).square().mean().item()
    return total, {"loss": total.item(), "likeness": alike, "power": power}
