"""JPEG by torch: what libjpeg makes of pictures (4:2:0, accurate integer DCT, fancy upsampling), a batch at once.

The integer transforms are linear before each of their roundings, so each is one product with an 8 by 8 matrix and a
rounding; numbers stay below 2^24, up to which float32 holds whole numbers exactly, but for rare ones beside a tie.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Half of libjpeg's `jidctint` as a matrix times 2^13, samples by frequencies; the other half mirrors it.
ISLOW = (
    (8192, 11363, 10703, 9633, 8192, 6437, 4433, 2260),
    (8192, 9633, 4433, -2259, -8192, -11362, -10704, -6436),
    (8192, 6437, -4433, -11362, -8192, 2261, 10704, 9633),
    (8192, 2260, -10703, -6436, 8192, 9633, -4433, -11363),
)
#: The tables of the JPEG standard's annex K at quality 50, of luma and of colour.
LUMA_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
COLOUR_TABLE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *(((99,) * 8,) * 4),
)
#: libjpeg's fixed-point conversions: shares of red, green and blue in luma, Cb and Cr, and what it adds before it cuts.
TO_LUMA_AND_COLOUR = [
    [value / 2**16 for value in values]
    for values in (
        (19595, 38470, 7471, 32768),
        (-11059, -21709, 32768, (128 << 16) + 32767),
        (32768, -27439, -5329, (128 << 16) + 32767),
    )
]
CR_TO_RED, CB_TO_BLUE, CB_TO_GREEN, CR_TO_GREEN = (one / 2**16 for one in (91881, 116130, -22554, -46802))
#: Sides of pictures are multiples of this: a block of colour covers so many pixels.
UNIT = 16


class Jpeg(nn.Module):
    """Sends pictures through JPEG, each in its own quality, without leaving the device.

    The same bytes as libjpeg-turbo's for pictures more than four pixels wide; narrower ones it enlarges more simply.
    """

    transform: Tensor
    tables: Tensor
    bias: Tensor

    def __init__(self) -> None:
        super().__init__()
        half = torch.tensor(ISLOW, dtype=torch.float32)
        mirrored = half.flip(0) * torch.tensor([1.0, -1.0] * 4)
        self.register_buffer("transform", torch.cat([half, mirrored]) / 2**11)
        self.register_buffer("tables", torch.stack([_tables(quality) for quality in range(101)]))
        self.register_buffer("bias", torch.tensor([1.0, 2.0]))

    def forward(self, images: Tensor, quality: Tensor, height: Tensor, width: Tensor) -> Tensor:
        """Return pictures as they come back from JPEG.

        Args:
            images: (B, 3, S, S) RGB in levels, S a multiple of `UNIT`; beyond each picture's own size its last row and
                column repeat.
            quality: (B,) int64, 1 to 100.
            height: (B,) int64, of each picture; `width` likewise.
        """
        red, green, blue = images.round().unbind(1)
        luma, cb, cr = (
            torch.floor(of_red * red + of_green * green + of_blue * blue + offset)
            for of_red, of_green, of_blue, offset in TO_LUMA_AND_COLOUR
        )
        rows, columns = (height + 1) // 2, (width + 1) // 2
        colour = _beyond(self._halved(torch.stack([cb, cr], 1)), rows, None)
        tables = self.tables[quality]
        luma = self._coded(luma[:, None], tables[:, :1])
        colour = _beyond(self._coded(colour, tables[:, 1:]), rows, columns)
        cb, cr = (_doubled(colour) - 128).unbind(1)
        luma = luma[:, 0]
        green = luma + torch.floor(CB_TO_GREEN * cb + CR_TO_GREEN * cr + 0.5)
        found = [luma + torch.floor(CR_TO_RED * cr + 0.5), green, luma + torch.floor(CB_TO_BLUE * cb + 0.5)]
        return torch.stack(found, 1).clamp(0, 255)

    def _halved(self, planes: Tensor) -> Tensor:
        """Average two by two, rounded up and down in turns along a row as libjpeg does."""
        summed = F.avg_pool2d(planes, 2, divisor_override=1)
        return torch.floor((summed + self.bias.repeat(summed.shape[-1] // 2)) / 4)

    def _coded(self, planes: Tensor, tables: Tensor) -> Tensor:
        """Through DCT and quantisation, and back: (B, c, h, w), with tables (B, 1, 8, 8)."""
        batch, channels, height, width = planes.shape
        blocks = (planes - 128).view(batch, channels, height // 8, 8, width // 8, 8)
        # Frequencies last: each product is over one axis, and what it makes of it comes last.
        across = torch.floor(blocks @ self.transform + 0.5)  # (B, c, h/8, 8, w/8, 8)
        down = torch.floor((across.transpose(3, 5) @ self.transform) / 2**4 + 0.5)  # across, w/8, down
        steps = 8 * tables.view(batch, 1, 1, 8, 1, 8)
        levels = torch.floor((down.abs() + steps / 2) / steps) * (steps / 8) * down.sign()
        back = torch.floor(levels @ self.transform.T + 0.5)
        found = torch.floor((back.transpose(3, 5) @ self.transform.T) / 2**7 + 0.5)
        return (found + 128).clamp(0, 255).reshape(batch, channels, height, width)


def _tables(quality: int) -> Tensor:
    """Return a quality's tables as libjpeg scales them, (2, 8, 8), indexed by the frequency across, then down."""
    scale = (5000 // max(quality, 1)) if quality < 50 else 200 - 2 * quality
    found = torch.tensor([LUMA_TABLE, COLOUR_TABLE])
    return ((found * scale + 50) // 100).clamp(1, 255).float().transpose(1, 2)


def _beyond(planes: Tensor, rows: Tensor, columns: Tensor | None) -> Tensor:
    """Return planes (B, c, h, w) whose last row, and column, of so many repeat."""
    for axis, count in ((2, rows), (3, columns)):
        if count is None:
            continue
        place = [1, 1, 1, 1]
        place[axis] = planes.shape[axis]
        numbers = torch.arange(planes.shape[axis], device=planes.device).view(place)
        last = (count - 1).view(-1, 1, 1, 1)
        shape = list(planes.shape)
        shape[axis] = 1
        edge = planes.gather(axis, last.expand(shape))
        planes = torch.where(numbers > last, edge, planes)
    return planes


def _doubled(planes: Tensor) -> Tensor:
    """Return planes at twice their size, by libjpeg's triangle filter: (B, c, h, w) to (B, c, 2 h, 2 w)."""
    padded = F.pad(planes, (0, 0, 1, 1), mode="replicate")
    above, below = 3 * planes + padded[:, :, :-2], 3 * planes + padded[:, :, 2:]
    rows = torch.stack([above, below], 3).flatten(2, 3)
    padded = F.pad(rows, (1, 1, 0, 0), mode="replicate")
    left = torch.floor((3 * rows + padded[..., :-2] + 8) / 16)
    right = torch.floor((3 * rows + padded[..., 2:] + 7) / 16)
    return torch.stack([left, right], 4).flatten(3, 4)
