"""Quantisation tables of JPEGs: read, and bounded for the output."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile, get_sampling

#: The 64 divisors of one table, in Pillow's row-major order (the file has them in zigzag order).
Table = tuple[int, ...]

_FULL_CHROMA = 0  # Pillow's number for 4:4:4


@dataclass(frozen=True)
class JpegCoding:
    """The choices of a JPEG's encoder."""

    #: One table a component, as far as they are known: (grey), or (Y, Cb, Cr).
    tables: tuple[Table, ...]
    #: Pillow's number: 0 is 4:4:4, 1 is 4:2:2, 2 is 4:2:0.
    subsampling: int
    progressive: bool


def read_coding(image: JpegImageFile) -> JpegCoding:
    """Return the source's tables and sampling. Samplings that Pillow cannot write count as 4:4:4, which loses
    nothing.
    """
    # layer: (id, vertical, horizontal sampling, number of its table)
    tables = tuple(tuple(image.quantization.get(layer[3], ())) for layer in image.layer[:3])
    sampling = get_sampling(image)
    return JpegCoding(
        tables=tables if all(len(table) == 64 for table in tables) else (),
        subsampling=sampling if sampling >= 0 else _FULL_CHROMA,
        progressive=bool(image.info.get("progressive")),
    )


def tables_for(coding: JpegCoding, *, grey: bool, floor_quality: int) -> list[Table]:
    """Return the tables to write with: the source's own, each replaced by the floor's where it is coarser.

    A table is coarser when its 64 divisors add up to more. The IJG tables of all qualities are multiples of each other,
    so on them this compares qualities; on a camera's own tables it compares the mean divisor.
    """
    floor = floor_tables(floor_quality)
    own = coding.tables or (floor[0], floor[1], floor[1])
    count = 1 if grey else 3
    own = (own * 3)[:count] if len(own) == 1 else own[:count]
    chosen = [table if sum(table) <= sum(floor[min(i, 1)]) else floor[min(i, 1)] for i, table in enumerate(own)]
    return chosen[:2] if len(chosen) == 3 and chosen[1] == chosen[2] else chosen


@cache
def floor_tables(quality: int) -> tuple[Table, Table]:
    """Return the IJG tables of a quality from 1 to 100, (luma, chroma), as the encoder itself has them."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", quality=quality)
    with JpegImageFile(io.BytesIO(buffer.getvalue())) as image:
        return tuple(image.quantization[0]), tuple(image.quantization[1])
