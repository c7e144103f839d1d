"""What training wants: that perturbed faces, after what platforms do to them, look like others to the teachers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from apf.attack.bound import Bound
from apf.guides.torch_recogniser import Recogniser
from apf.recipe import BUILT_IN
from apf.research.train import augment
from apf.research.train.bounds import Attacked, field_along, in_colour
from apf.research.train.data import Faces
from apf.research.train.teachers import channels_last
from apf.research.train.whole_photo import pasted

#: Likeness to the clean face (1 the same, 0 as alike as strangers are) at which a teacher counts as fooled and
#: pulls no more, and the weight of its square above that: faces that are still known pull hardest.
ENOUGH, FOOLED_WEIGHT = -0.05, 1.4
#: Teachers asked in a step, and how often each is drawn compared with one that is not named here: those that hold out
#: longest more often, the slow one and the softest less.
ASKED = 4
SHARES = {"openvino_reid0095": 2.4, "mfn_faceplugin": 2.4, "hse_faceres": 0.4, "dlib_resnet": 0.4}
#: Spread of the random affine map through which a teacher sees a face that was not pasted.
AFFINE_STD = 0.04
#: Weight of the mean difference of neighbours, in units of the bound: rough noise survives less.
ROUGHNESS_WEIGHT = 0.03
#: Structural dissimilarity of luma, 1 - SSIM, from which on it costs, at `REFERENCE_LEVELS`; it grows as this power of
#: epsilon (measured). Power within the bound is free.
FREE_DISSIMILARITY, SSIM_WEIGHT = 0.060, 8.0
REFERENCE_LEVELS, SSIM_GROWTH = 10.0, 1.6
#: Mean square of the noise's luma in cells of so many pixels, in units of the bound, from which on it costs: SSIM
#: hardly sees shading, and eyes see it as blotches.
CELL, FREE_SHADING, SHADING_WEIGHT = 8, 0.06, 3.0
#: Share of what teachers see that went through a whole photo (`apf.research.train.whole_photo`).
PASTED = 0.5
#: Shares of grey and of over-exposed faces, and how far exposure goes.
GREY, OVEREXPOSED, LARGEST_EXPOSURE = 0.08, 0.12, 1.8
#: Share of sharpened faces, and how far the unsharp mask goes: photos are sharper than the crops at hand.
SHARPENED, SHARPEST = 0.6, 1.0
#: Spread of contrast and brightness.
LIGHT_STD = 0.12
#: Levels: most photos go through the modules under the recipe that is theirs alone; the network serves all.
EPSILONS = (10.0, 10.0, 10.0, 9.0, 8.0, 12.0)
#: Share of colour, and how far points shift in shares of the face's side, as that recipe has it.
CHROMA = float(str(BUILT_IN["modules"]["chroma"]))
WARP = 0.006
#: Share of the faces' batches that are warped.
WARPED = 0.9


@dataclass
class Ensemble:
    """The teachers with their cached embeddings (N, D) of the clean faces, by name."""

    teachers: dict[str, Recogniser]
    clean: dict[str, Tensor]

    def likeness(self, index: Tensor, attacked: Attacked, generator: torch.Generator) -> dict[str, Tensor]:
        """How alike (B,) each drawn teacher finds cached clean faces and perturbed ones, through transforms of its own.

        Perturbed ones may have lost their colour or be over-exposed; the cached ones have not.

        The cosine on a scale on which the same face has 1 and strangers have 0 on average: raw, it is 0.85 for one
        teacher's strangers and 0 for another's.
        """
        found = {}
        for name in self._draw(generator):
            if augment.uniform(generator) < PASTED:
                seen = pasted(attacked, generator)
            else:
                seen = transformed(attacked.protected, generator)
            clean = self.clean[name][index].to(seen.device)
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
    """Faces (B, 3, 112, 112) as photos are: sharp and soft, bright and dark, some over-exposed, some grey; and which
    of them are grey (B, 1, 1, 1).
    """
    chances = torch.rand(3, len(faces), 1, 1, 1, generator=generator).to(faces)
    amount = SHARPEST * torch.rand(len(faces), 1, 1, 1, generator=generator).to(faces)
    sharp = (faces + amount * (faces - augment.resize(faces, 0.5))).clamp(0, 1)
    faces = augment.light(torch.where(chances[2] < SHARPENED, sharp, faces), LIGHT_STD, generator)
    gain = 1 + (LARGEST_EXPOSURE - 1) * torch.rand(len(faces), 1, 1, 1, generator=generator).to(faces)
    faces = torch.where(chances[0] < OVEREXPOSED, (faces * gain).clamp(max=1), faces)
    grey = chances[1] < GREY
    return torch.where(grey, augment.luma(faces), faces), grey


def fooled(likenesses: Sequence[Tensor]) -> Tensor:
    """Squared hinge on likeness, averaged over teachers and faces."""
    return FOOLED_WEIGHT * torch.stack([F.relu(likeness - ENOUGH).square().mean() for likeness in likenesses]).mean()


def visible(attacked: Attacked) -> Tensor:
    """Return the price of being seen: roughness, lost structure, and shading."""
    noise = attacked.noise
    rough = (noise.diff(dim=2).abs().mean() + noise.diff(dim=3).abs().mean()) / 2
    lost = attacked.lost / (attacked.allowed.epsilon / REFERENCE_LEVELS) ** SSIM_GROWTH
    structure = F.relu(lost - FREE_DISSIMILARITY).mean()
    shading = F.avg_pool2d(augment.luma(noise)[:, :1], CELL).square().mean((1, 2, 3))
    return ROUGHNESS_WEIGHT * rough + SSIM_WEIGHT * structure + SHADING_WEIGHT * F.relu(shading - FREE_SHADING).mean()


#: Faces (B, 3, 112, 112), epsilon and a generator to a perturbation of the same shape, and to the momentum that a warp
#: follows, if there is one.
Perturb = Callable[[Tensor, float, torch.Generator], tuple[Tensor, Tensor | None]]


def attack_step(
    perturb: Perturb, faces: Faces, ensemble: Ensemble, batch: int, device: str, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of what `perturb` does to a random batch, with figures for the log."""
    index = torch.randint(len(faces), (batch,), generator=generator)
    warp = WARP if augment.uniform(generator) < WARPED else 0.0
    allowed = Bound(EPSILONS[int(torch.randint(len(EPSILONS), (), generator=generator))], CHROMA, warp)
    seen, grey = varied(faces.batch(index).to(device), generator)
    epsilon = allowed.epsilon / 255
    delta, momentum = perturb(seen, epsilon, generator)
    # A network's answer is bfloat16 under autocast; a grey photo stays grey.
    noise = in_colour(delta.float() / epsilon, torch.where(grey, 0.0, CHROMA))
    attacked = Attacked(seen, noise, allowed, None if momentum is None else field_along(momentum.float(), seen))
    likenesses = ensemble.likeness(index, attacked, generator)
    total = fooled(list(likenesses.values())) + visible(attacked)
    alike = torch.stack([s.detach().mean() for s in likenesses.values()]).mean().item()
    power, lost = noise.detach().square().mean().item(), attacked.lost.detach().mean().item()
    return total, {"loss": total.item(), "likeness": alike, "power": power, "lost": lost}
