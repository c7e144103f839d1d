"""Reductions: what a device may do to a gradient before it leaves, so that it gives less away.

A reduction depends on the gradient and on a seed of the photo's own: the same photo sent twice shows nothing new.
Whatever is done, the values are cut to so many bits at the end, as `apf.private.files` writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from apf.private.quantise import REACHED, Float32, dequantise, quantise
from apf.research.train.data import DataError


@dataclass(frozen=True)
class Reduction:
    """One way to tell less. The steps run in the order of the fields."""

    name: str
    #: Whether the momentum is sent, too, or the perturbation reached alone.
    momentum: bool = True
    #: Share of each face's places that is kept, where the values are largest; elsewhere they become zero.
    keep: float = 1.0
    #: Values are averaged over squares of so many pixels a side.
    pool: int = 1
    #: Spread of Gaussian noise, in the gradient's own units: the reached perturbation and the momentum are about 1.
    noise: float = 0.0
    #: Each face's colours are shuffled and half of the faces are mirrored; the device undoes it on the answer.
    turned: bool = False
    #: Tiles of so many pixels a side are shuffled; the device undoes that, too. 0: none.
    tile: int = 0
    #: Bits a value.
    bits: int = 1

    def seen(self, gradients: Float32, seeds: Sequence[int]) -> Float32:
        """Return what the server sees of gradients (n, 6, 112, 112), which are not changed; a seed for each."""
        found = gradients if self.momentum else gradients[:, :REACHED]
        if self.keep < 1:
            found = _largest(found, self.keep)
        if self.pool > 1:
            found = _pooled(found, self.pool)
        if self.noise:
            found = found + self.noise * _noise(found.shape, seeds)
        found = self._moved(found, seeds, back=False)
        return dequantise(quantise(found, self.bits), self.bits)

    def undone(self, deltas: Float32, seeds: Sequence[int]) -> Float32:
        """Return the answer to what was `seen`, (n, 3, 112, 112), as the device needs it."""
        return self._moved(deltas, seeds, back=True)

    def _moved(self, values: Float32, seeds: Sequence[int], *, back: bool) -> Float32:
        """Colours, sides and tiles of (n, 3 k, 112, 112) where each face's seed puts them, or back from there."""
        if not self.turned and not self.tile:
            return values
        each = zip(values, seeds, strict=True)
        return np.stack([_moved(face, seed, self.turned, self.tile, back) for face, seed in each])


#: What is measured, by name.
ROWS: dict[str, Reduction] = {
    row.name: row
    for row in (
        Reduction("8 bits", bits=8),
        Reduction("4 bits", bits=4),
        Reduction("2 bits", bits=2),
        Reduction("sign"),
        Reduction("sign, reached alone", momentum=False),
        Reduction("sign, reached alone, noise 0.5", momentum=False, noise=0.5),
        Reduction("sign, reached alone, noise 1", momentum=False, noise=1),
        Reduction("sign, reached alone, noise 2", momentum=False, noise=2),
        Reduction("sign, means of 2x2", pool=2),
        Reduction("4 bits, largest 25 %", keep=0.25, bits=4),
        Reduction("sign, turned", turned=True),
        Reduction("sign, reached alone, noise 0.5, turned", momentum=False, noise=0.5, turned=True),
        Reduction("sign, tiles of 16 shuffled", tile=16),
    )
}
#: What the attacker learns from that all rows' own attackers go on from.
COMMON = ("8 bits", "sign", "sign, reached alone, noise 1", "sign, turned")


def chosen(names: Sequence[str]) -> tuple[Reduction, ...]:
    """Return the rows of these names, in their own order; all if no name is given. Raises DataError: a name is
    unknown.
    """
    for name in names:
        if name not in ROWS:
            raise DataError(f"no row named {name!r}: use one of {'; '.join(ROWS)}")
    return tuple(row for name, row in ROWS.items() if not names or name in names)


def _largest(gradients: Float32, keep: float) -> Float32:
    """Both halves where they are largest together: one alone has many values of just 1."""
    size = np.abs(gradients).reshape(len(gradients), -1, REACHED, *gradients.shape[2:]).sum(1)  # (n, 3, 112, 112)
    least = np.quantile(size.reshape(len(size), -1), 1 - keep, axis=1)[:, None, None, None]
    kept = np.tile(size >= least, (1, gradients.shape[1] // REACHED, 1, 1))
    found: Float32 = np.where(kept, gradients, np.float32(0))
    return found


def _pooled(gradients: Float32, side: int) -> Float32:
    n, channels, height, width = gradients.shape
    squares = gradients.reshape(n, channels, height // side, side, width // side, side).mean((3, 5))
    pooled: Float32 = squares.repeat(side, 2).repeat(side, 3)
    return pooled


def _noise(shape: tuple[int, ...], seeds: Sequence[int]) -> Float32:
    return np.stack([np.random.default_rng([seed, 0]).standard_normal(shape[1:], np.float32) for seed in seeds])


def _moved(face: Float32, seed: int, turned: bool, tile: int, back: bool) -> Float32:
    """One face's channels (3 k, 112, 112), moved by its seed; `back` is the inverse."""
    random = np.random.default_rng([seed, 1])
    colours, mirrored = random.permutation(3), bool(random.integers(2))
    steps = [lambda x: _mirrored(_coloured(x, colours, back), mirrored)] if turned else []
    if tile:
        order = random.permutation((face.shape[-1] // tile) ** 2)
        steps.append(lambda x: _tiled(x, tile, np.argsort(order) if back else order))
    for step in reversed(steps) if back else steps:
        face = step(face)
    return face


def _coloured(face: Float32, colours: np.ndarray, back: bool) -> Float32:
    order = np.argsort(colours) if back else colours
    return face.reshape(-1, 3, *face.shape[1:])[:, order].reshape(face.shape)


def _mirrored(face: Float32, mirrored: bool) -> Float32:
    return face[..., ::-1] if mirrored else face


def _tiled(face: Float32, tile: int, order: np.ndarray) -> Float32:
    channels, side = len(face), face.shape[-1] // tile
    tiles = face.reshape(channels, side, tile, side, tile).transpose(1, 3, 0, 2, 4).reshape(-1, channels, tile, tile)
    back = tiles[order].reshape(side, side, channels, tile, tile).transpose(2, 0, 3, 1, 4)
    return np.ascontiguousarray(back).reshape(face.shape)
