"""Protection by kind of photo: dark, blurred, grey, with sunglasses. None of them may fall out of line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur
from tqdm import tqdm

from apf.faces.alignment import ARCFACE_TEMPLATE, CROP, TYPICAL_BOX
from apf.filters.load import PhotoFilter
from apf.research.evaluate.conditions import CONDITIONS, Condition, eight_bits
from apf.research.evaluate.crop_pipeline import protected_crops
from apf.research.evaluate.targets import FALSE_ACCEPT_RATES, Pairs, Target, embed
from apf.research.train.augment import luma

#: Faces (N, 3, 112, 112) float32 in [0, 1] to the same of another kind.
Kind = Callable[[Tensor], Tensor]
#: Percent not matched by each recogniser, by name, for each of `FALSE_ACCEPT_RATES`.
Rates = dict[str, tuple[float, ...]]

DARK_GAIN = 0.35
#: Pixels above 141 of 255 become white.
BRIGHT_GAIN = 1.8
BLUR_SIGMA_PX = 1.5
#: Of Gaussian noise, on [0, 1]: 15 levels, a phone by night.
NOISE_SIGMA = 0.06
#: Side of the face's box in the photo that is enlarged to the crop.
LOW_RESOLUTION_PX = 40

#: Half axes of a lens, how far its centre lies under the eye's, and the bar between, in template pixels.
LENS_PX, LENS_DROP_PX, BAR_RISE_PX, BAR_PX = (15.0, 11.5), 1.5, 4.0, 4
GLASSES_LEVEL, GLASSES_OPACITY = 0.05, 0.95

#: What is reported of each kind.
SEEN = {name: CONDITIONS[name] for name in ("raw", "jpeg75")}


@dataclass(frozen=True)
class KindRow:
    """Photos of one kind under one condition, compared with the person's other photo as it is."""

    kind: str
    condition: str
    photos: int
    #: Unprotected, protected, and protected less unprotected (in points).
    none: Rates
    ours: Rates
    gain: Rates
    #: The same, averaged over the recognisers that no training attacked; over all if there is no such.
    mean_none: tuple[float, ...]
    mean_ours: tuple[float, ...]
    mean_gain: tuple[float, ...]


def as_it_is(faces: Tensor) -> Tensor:
    """Return the faces themselves."""
    return faces


def dark(faces: Tensor) -> Tensor:
    """Under-exposed."""
    return faces * DARK_GAIN


def bright(faces: Tensor) -> Tensor:
    """Over-exposed, with highlights cut off."""
    return (faces * BRIGHT_GAIN).clamp(max=1)


def blurred(faces: Tensor) -> Tensor:
    """Out of focus: a Gaussian."""
    soft: Tensor = gaussian_blur(faces, [13, 13], [BLUR_SIGMA_PX, BLUR_SIGMA_PX])
    return soft


def noisy(faces: Tensor) -> Tensor:
    """With Gaussian noise, always the same for as many faces."""
    noise = torch.randn(faces.shape, generator=torch.Generator().manual_seed(0))
    return (faces + NOISE_SIGMA * noise).clamp(0, 1)


def sunglasses(faces: Tensor) -> Tensor:
    """With dark glasses drawn over the template's eyes."""
    cover = torch.from_numpy(_glasses())
    return faces + cover * (GLASSES_LEVEL - faces)


def low_resolution(faces: Tensor) -> Tensor:
    """Enlarged from a face of 40 pixels, and protected after that: `whole_photos` protects such a face itself."""
    x1, y1, x2, y2 = TYPICAL_BOX
    side = round(CROP * LOW_RESOLUTION_PX / ((x2 - x1) * (y2 - y1)) ** 0.5)
    small = F.interpolate(faces, (side, side), mode="area")
    return F.interpolate(small, (CROP, CROP), mode="bilinear", align_corners=False)


#: By the name of the row.
KINDS: dict[str, Kind] = {
    "as it is": as_it_is,
    "greyscale": luma,
    "dark": dark,
    "overexposed": bright,
    "blurred": blurred,
    "noisy": noisy,
    "sunglasses": sunglasses,
    "low resolution": low_resolution,
}


def kinds(
    pairs: Pairs,
    filter_: PhotoFilter,
    targets: Sequence[Target],
    *,
    chosen: Mapping[str, Kind] = KINDS,
    conditions: Mapping[str, Condition] = SEEN,
) -> list[KindRow]:
    """Return a row for each kind and condition: the photos made so, then protected, beside the same unprotected.

    Args:
        pairs: the photos to change and protect, and the clean ones that they are compared with.
        filter_: what protects.
        targets: the recognisers, with thresholds from clean faces.
        chosen: the kinds, by name.
        conditions: what happens to the protected photos, by name.
    """
    known = [(target, embed(target.recogniser, pairs.gallery)) for target in targets]
    rows = []
    for name, change in tqdm(chosen.items(), desc="kinds of photo", unit="kind"):
        clean = eight_bits(change(pairs.probes))  # a photo has 8 bits before it is protected, too
        ours = protected_crops(clean, filter_)
        rows += [_row(name, condition, seen(clean), seen(ours), known) for condition, seen in conditions.items()]
    return rows


def _row(kind: str, condition: str, clean: Tensor, ours: Tensor, known: Sequence[tuple[Target, Tensor]]) -> KindRow:
    before, after = _rates(clean, known), _rates(ours, known)
    gain = {name: tuple(a - b for a, b in zip(after[name], before[name], strict=True)) for name in after}
    strangers = [target.name for target, _ in known if not target.trained_on] or list(after)
    mean_none, mean_ours, mean_gain = (_mean(rates, strangers) for rates in (before, after, gain))
    return KindRow(kind, condition, len(clean), before, after, gain, mean_none, mean_ours, mean_gain)


def _rates(pixels: Tensor, known: Sequence[tuple[Target, Tensor]]) -> Rates:
    faces = pixels.float() / 255
    return {target.name: target.protection(faces, gallery) for target, gallery in known}


def _mean(rates: Rates, names: Sequence[str]) -> tuple[float, ...]:
    return tuple(sum(rates[name][i] for name in names) / len(names) for i in range(len(FALSE_ACCEPT_RATES)))


def _glasses() -> np.ndarray:
    """How much of each pixel the glasses cover, (112, 112) float32 in [0, 1], with smooth edges."""
    shift = 4  # cv2 takes whole numbers of a sixteenth of a pixel
    one = 1 << shift
    eyes = ARCFACE_TEMPLATE[:2]
    mask = np.zeros((CROP, CROP), np.uint8)
    for x, y in eyes + np.array([0, LENS_DROP_PX]):
        centre, axes = (round(x * one), round(y * one)), (round(LENS_PX[0] * one), round(LENS_PX[1] * one))
        cv2.ellipse(mask, centre, axes, 0, 0, 360, 255, cv2.FILLED, cv2.LINE_AA, shift)
    start, end = ((round(x * one), round((y - BAR_RISE_PX) * one)) for x, y in eyes)
    cv2.line(mask, start, end, 255, BAR_PX, cv2.LINE_AA, shift)
    return mask.astype(np.float32) / 255 * GLASSES_OPACITY
