"""A first measurement: how often recognisers fail to match a protected face to another photo of the person."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from apf.filter import Filter
from apf.models.recogniser import Recogniser, load_recognisers
from apf.recipe import Recipe, Stage, load_recipe
from apf.train.data import DataError, Faces

FALSE_ACCEPT_RATES = (1e-2, 1e-3)
VARIANTS: dict[str, tuple[Stage, ...]] = {
    "gradient": ("gradient",),
    "transfer": ("gradient", "transfer"),
    "universal": ("universal",),
    "all stages": ("gradient", "transfer", "universal"),
}

Perturb = Callable[[Tensor], Tensor]
Result = dict[str, object]


@dataclass(frozen=True)
class Settings:
    recipe: str = "standard"
    people: int = 100
    device: str = "cpu"
    #: The faces are measured as they are, and after JPEG of each of these qualities.
    jpeg_qualities: tuple[int, ...] = (75,)
    #: Names of rows; empty: all.
    methods: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """A recogniser with what it says of the clean faces."""

    recogniser: Recogniser
    gallery: Tensor
    thresholds: tuple[float, ...]

    def protection(self, probes: Tensor) -> list[float]:
        """Percent of faces whose similarity to the other photo is under each threshold."""
        similarity = (_embed(self.recogniser, probes) * self.gallery).sum(1)
        return [round(100 * (similarity < threshold).float().mean().item(), 1) for threshold in self.thresholds]


def score(held_out: Faces, models: Path, settings: Settings) -> Result:
    """Protection rates on pairs of photos of people that no training saw.

    The protected photo is compared with another, clean photo of the same person; thresholds come from all clean pairs
    of different people among the held-out faces.

    Raises:
        DataError: nobody has two photos.
    """
    recipe = load_recipe(settings.recipe)
    first, second = _pairs(held_out, settings.people)
    probes, gallery = held_out.batch(first), held_out.batch(second)
    targets = {name: _target(recogniser, held_out, gallery) for name, recogniser in load_recognisers(models).items()}
    methods: dict[str, Perturb] = {"none": torch.zeros_like, "noise": lambda faces: _noise(faces, recipe.epsilon)}
    methods |= {name: _stages(recipe, stages, settings.device) for name, stages in VARIANTS.items()}
    wanted = {name: methods[name] for name in settings.methods or methods}
    rows = [_row(name, perturb, probes, targets, settings.jpeg_qualities) for name, perturb in wanted.items()]
    return {"recipe": settings.recipe, "people": len(first), "rows": rows}


def table(result: Result) -> str:
    """The result as fixed-width text: protection at FAR 1e-2 / 1e-3, in percent."""
    rows = result["rows"]
    if not isinstance(rows, list):
        raise TypeError("not a result of `score`")
    lines = [f"protection at FAR 1e-2/1e-3 in percent, recipe {result['recipe']}, {result['people']} people"]
    for row in rows:
        for seen in (name for name in row if name.startswith("protection")):
            cells = [f"{name} {rates[0]:.0f}/{rates[1]:.0f}" for name, rates in row[seen].items()]
            what = f"{row['method']:<11} {seen.removeprefix('protection').lstrip('_') or 'raw':<7}"
            lines.append(f"{what} {row['psnr_db']:5.1f} dB {row['ms_per_face']:5.1f} ms  " + "  ".join(cells))
    return "\n".join(lines)


def _row(
    name: str, perturb: Perturb, probes: Tensor, targets: dict[str, Target], qualities: tuple[int, ...]
) -> dict[str, object]:
    start = time.perf_counter()
    delta = perturb(probes).cpu()
    seconds = time.perf_counter() - start
    pixels = ((probes + delta).clamp(0, 1) * 255).round() / 255
    seen = {"protection": pixels}
    seen |= {f"protection_jpeg{quality}": _through_jpeg(pixels, quality) for quality in qualities}
    return {
        "method": name,
        "psnr_db": round(_psnr(probes, pixels), 2),
        "ms_per_face": round(1000 * seconds / len(probes), 1),
        **{how: {n: target.protection(faces) for n, target in targets.items()} for how, faces in seen.items()},
    }


def _stages(recipe: Recipe, stages: tuple[Stage, ...], device: str) -> Perturb:
    return Filter.load(recipe.model_copy(update={"stages": stages}), device).perturbation


def _target(recogniser: Recogniser, held_out: Faces, gallery: Tensor) -> Target:
    known = torch.cat(
        [_embed(recogniser, held_out.batch(index)) for index in torch.split(torch.arange(len(held_out)), 32)]
    )
    names = {name: number for number, name in enumerate(dict.fromkeys(held_out.people))}
    who = torch.tensor([names[name] for name in held_out.people])
    impostors = (known @ known.T)[(who[:, None] != who[None]).triu(1)]
    ranks = [max(1, round(len(impostors) * (1 - rate))) for rate in FALSE_ACCEPT_RATES]
    return Target(
        recogniser, _embed(recogniser, gallery), tuple(impostors.kthvalue(rank).values.item() for rank in ranks)
    )


def _pairs(faces: Faces, people: int) -> tuple[Tensor, Tensor]:
    """Positions of the first and second photo of people who have two."""
    photos: dict[str, list[int]] = {}
    for index, name in enumerate(faces.people):
        photos.setdefault(name, []).append(index)
    pairs = [own[:2] for own in photos.values() if len(own) > 1][:people]
    if not pairs:
        raise DataError("nobody among the people kept apart has two photos: give more faces")
    first, second = torch.tensor(pairs).T
    return first, second


@torch.no_grad()
def _embed(recogniser: Recogniser, faces: Tensor) -> Tensor:
    return torch.cat([recogniser(chunk) for chunk in torch.split(faces, 32)])


def _noise(faces: Tensor, epsilon: float) -> Tensor:
    return epsilon * torch.empty_like(faces).uniform_(-1, 1, generator=torch.Generator().manual_seed(0))


def _through_jpeg(faces: Tensor, quality: int) -> Tensor:
    coded = []
    for face in (faces * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy():
        buffer = io.BytesIO()
        Image.fromarray(face).save(buffer, "JPEG", quality=quality)
        coded.append(np.asarray(Image.open(buffer).convert("RGB")))
    return torch.from_numpy(np.stack(coded)).permute(0, 3, 1, 2).float() / 255


def _psnr(clean: Tensor, seen: Tensor) -> float:
    error = (clean - seen).square().mean().item()
    return 99.0 if not error else -10 * float(np.log10(error))
