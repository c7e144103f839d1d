"""The road of a face through a whole photo: pasted at some size, published, found again and aligned anew.

What `apf.attack.paste` and `apf.faces.alignment.align` do, for a batch of faces and with gradients. The photo is no
larger than the crop: where a turned crop's corners leave it, its border goes on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from apf.attack.bound import Bound
from apf.faces.alignment import CROP
from apf.research.train import augment
from apf.research.train.bounds import Attacked, bounds, drawn, outline

#: Photo pixels a template pixel, drawn evenly on a logarithmic scale: faces of 40 to 280 pixels. Larger ones lose no
#: more than those.
SMALLEST_SCALE, LARGEST_SCALE = 0.42, 3.0
#: How faces lie in photos: turned (radians), and off the pixels' grid (half widths).
TURN_STD, SHIFT_STD = 0.12, 0.02
#: Spread of the alignment that a recogniser finds, against ours.
ALIGNMENT_STD = 0.025
#: Share of the photos that are published as JPEG, and its qualities.
JPEG_SHARE, LOWEST_QUALITY, HIGHEST_QUALITY = 0.5, 70, 97


@dataclass(frozen=True)
class Place:
    """Where the faces of a batch lie in photos of `side` pixels: maps (B, 2, 3) from photo to template."""

    to_template: Tensor
    side: int

    @classmethod
    def draw(cls, faces: Tensor, generator: torch.Generator) -> Place:
        """Return a size for all, and a turn and a shift for each of the faces (B, 3, 112, 112)."""
        span = math.log(LARGEST_SCALE / SMALLEST_SCALE)
        side = round(CROP * SMALLEST_SCALE * math.exp(span * augment.uniform(generator)))
        turn = TURN_STD * augment.normal((len(faces),), generator, faces)
        shift = SHIFT_STD * augment.normal((len(faces), 2), generator, faces)
        cosine, sine = turn.cos(), turn.sin()
        rotation = torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1)
        return cls(torch.cat([rotation, shift[:, :, None]], 2), side)

    def drawn(self, pictures: Tensor) -> Tensor:
        """Template pictures (B, C, 112, 112) as the photos (B, C, side, side) show them."""
        small = averaged(pictures, self.side) if self.side < CROP else pictures
        return _sampled(small, self.to_template, self.side)

    def inside(self, noise: Tensor) -> Tensor:
        """Template noise (B, C, 112, 112) as it is drawn into the photos: nothing beyond the face's outline."""
        small = averaged(noise, self.side) if self.side < CROP else noise
        beyond = _grid(self.to_template, self.side).abs().amax(-1)[:, None] > 1
        return _sampled(small * outline(small), self.to_template, self.side).masked_fill(beyond, 0)

    def bounds(self, faces: Tensor, own: Tensor, allowed: Bound) -> Tensor:
        """How far each pixel of the photos may move, in levels: (B, 1, side, side).

        Photos that are larger than the template have no detail beyond the faces', and get the faces' `own` bound.
        """
        if self.side <= CROP:
            return bounds(self.drawn(faces), allowed, self.to_template)
        return self.drawn(own).round()

    def cut(self, photos: Tensor, to_template: Tensor | None = None) -> Tensor:
        """Photos (B, C, side, side) to aligned pictures (B, C, 112, 112), by these maps or by others'."""
        small = averaged(photos, CROP) if self.side > CROP else photos
        return _sampled(small, _inverse(self.to_template if to_template is None else to_template), CROP)


def pasted(attacked: Attacked, generator: torch.Generator) -> Tensor:
    """Return what a recogniser sees of faces that were protected in whole photos.

    Returns:
        The protected faces, aligned anew, (B, 3, 112, 112); gradients flow to the noise and the warp.
    """
    faces = attacked.faces
    place = Place.draw(faces, generator)
    bound = place.bounds(faces, attacked.bound, attacked.allowed)
    photos = drawn(place.drawn(attacked.warped), place.inside(attacked.noise), bound)
    quality = LOWEST_QUALITY + int((HIGHEST_QUALITY - LOWEST_QUALITY + 1) * augment.uniform(generator))
    if augment.uniform(generator) < JPEG_SHARE:
        photos = augment.jpeg(photos, quality)
    aside = ALIGNMENT_STD * augment.normal((len(faces), 2, 3), generator, faces)
    return place.cut(photos.clamp(0, 1), place.to_template + aside)


def averaged(pictures: Tensor, side: int) -> Tensor:
    """Square pictures reduced to `side` pixels by averaging areas, as OpenCV's INTER_AREA does."""
    with torch.autocast(pictures.device.type, enabled=False):
        weights = _areas(pictures.shape[-1], side).to(pictures)
        return weights @ pictures @ weights.T


def _areas(large: int, small: int) -> Tensor:
    """(small, large): the share of each large pixel in each small one."""
    ratio = large / small
    start, pixel = torch.arange(small)[:, None] * ratio, torch.arange(large)[None]
    return ((pixel + 1).clamp(max=start + ratio) - start.clamp(min=pixel)).clamp(min=0) / ratio


def _inverse(maps: Tensor) -> Tensor:
    """(B, 2, 3) maps the other way round."""
    with torch.autocast(maps.device.type, enabled=False):
        turned = torch.linalg.inv(maps[:, :, :2])
        return torch.cat([turned, -turned @ maps[:, :, 2:]], 2)


def _sampled(pictures: Tensor, maps: Tensor, side: int) -> Tensor:
    """Bilinear, at the places that the maps (B, 2, 3) take each of side x side pixels to; borders go on."""
    with torch.autocast(pictures.device.type, enabled=False):
        return F.grid_sample(pictures, _grid(maps, side), mode="bilinear", padding_mode="border", align_corners=False)


def _grid(maps: Tensor, side: int) -> Tensor:
    """(B, side, side, 2): where the maps take each pixel of a square, its edges at -1 and 1."""
    with torch.autocast(maps.device.type, enabled=False):  # places need all of float32
        return F.affine_grid(maps, [len(maps), 1, side, side], align_corners=False)
