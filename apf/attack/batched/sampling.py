"""Sample pictures of a batch by torch, as `apf.faces.resampling` does for one: each picture in its own place."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from apf.faces.geometry import CROP

#: Pixels that a view reduces a canvas to, at most: a square of 112 on its corner, and its margin.
MOST_REDUCED = 192


def area_weights(first: Tensor, span: Tensor, count: int, length: int) -> Tensor:
    """Return what averages spans of an axis, (B, count, length): the i-th is from first + i span, one span long."""
    number = torch.arange(count, device=first.device)[None, :, None]
    pixel = torch.arange(length, device=first.device)[None, None]
    start = first.view(-1, 1, 1) + number * span.view(-1, 1, 1)
    shared = torch.minimum(start + span.view(-1, 1, 1), pixel + 1.0) - torch.maximum(start, pixel.float())
    return shared.clamp_min(0) / span.view(-1, 1, 1)


def places_of(maps: Tensor, height: int, width: int) -> Tensor:
    """Return where maps (B, 6) take the pixels of a grid: (B, height, width, 2)."""
    x = torch.arange(width, device=maps.device, dtype=torch.float32)
    y = torch.arange(height, device=maps.device, dtype=torch.float32)
    one = maps.view(-1, 2, 3, 1, 1)
    return (one[:, :, 0] * x + one[:, :, 1] * y[:, None] + one[:, :, 2]).permute(0, 2, 3, 1)


def within(places: Tensor, width: Tensor, height: Tensor) -> Tensor:
    """Return places no further out than the last pixels of pictures of so many, (B,): there these repeat."""
    most = torch.stack([width, height], 1).view(-1, 1, 1, 2) - 1
    return torch.minimum(places.clamp_min(0), most.to(places.dtype))


def sampled(images: Tensor, places: Tensor, mode: str = "bilinear") -> Tensor:
    """Return images (B, c, h, w) at places (B, H, W, 2) in pixels; beyond the edges the last pixels repeat."""
    return on_grid(images, normalised(places, images.shape[3], images.shape[2]), mode)


def normalised(places: Tensor, width: int, height: int) -> Tensor:
    """As `on_grid` takes places in pictures of this size."""
    across, down = places.unbind(-1)
    return torch.stack([across * (2 / max(width - 1, 1)) - 1, down * (2 / max(height - 1, 1)) - 1], -1)


def on_grid(images: Tensor, grid: Tensor, mode: str = "bilinear") -> Tensor:
    return F.grid_sample(images, grid, mode=mode, padding_mode="border", align_corners=True)


def cut_out(images: Tensor, views: Tensor, *, whole: bool = False) -> Tensor:
    """Return what views (B, 12) cut out of canvases (B, c, S, S), as `apf.faces.alignment.cut`: (B, c, 112, 112).

    Args:
        whole: what is averaged down is rounded, as that of pixels of a byte is.
    """
    batch, channels, side, _ = images.shape
    left, top, across, down, width, height = views[:, 6:].unbind(1)
    count = min(side, MOST_REDUCED)
    columns, rows = area_weights(left, across, count, side), area_weights(top, down, count, side)
    narrow = torch.bmm(images.reshape(batch, channels * side, side), columns.transpose(1, 2))
    small = rows[:, None] @ narrow.view(batch, channels, side, count)
    if whole:
        small = small.round()
    return sampled(small, within(places_of(views[:, :6], CROP, CROP), width, height))


def softening(taps: Tensor, shares: Tensor) -> Tensor:
    """Return what blurs an axis of 112 pixels: (B, 112, 112), by taps (B, 5) and `neighbours`."""
    return (taps @ shares.flatten(1)).view(-1, CROP, CROP)


def neighbours(count: int, *, reflected: bool) -> Tensor:
    """Return which pixels lie how far from each of 112, (count, 112, 112): beyond the edge the last repeats, or all is
    mirrored.
    """
    found, last = torch.zeros(count, CROP, CROP), CROP - 1
    for away in range(count):
        for sign in (-1, 1) if away else (1,):
            for pixel in range(CROP):
                at = pixel + sign * away
                at = min(max(at, 0), last) if not reflected else abs(at) if at <= last else 2 * last - at
                found[away, pixel, at] += 1
    return found


def blur(taps: tuple[float, ...], *, reflected: bool) -> Tensor:
    """Return what blurs an axis of 112 pixels by fixed taps: (112, 112)."""
    found: Tensor = torch.tensordot(torch.tensor(taps), neighbours(len(taps), reflected=reflected), 1)
    return found
