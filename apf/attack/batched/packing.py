"""Faces as arrays of one size, for a batch: what is copied to the device, all at once. NumPy, on the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from apf.attack.batched.views import jury_rows, step_rows
from apf.attack.chances import Chance
from apf.attack.gradient_steps import Climb
from apf.attack.outline import FACE_SIDE
from apf.attack.perturbation import KNOTS
from apf.faces.alignment import Float32, UInt8
from apf.faces.geometry import CROP

#: Sides of canvases, in pixels: multiples of what JPEG works on. The last one holds the canvas of any face, the one
#: before it that of any upright one.
SIDES = (96, 160, 256, 416, 560)
#: Values of a face's noise and field, which the steps change, and of these with their momenta.
NOISE, FIELD = 3 * CROP * CROP, 2 * KNOTS * KNOTS
STATE = 2 * (NOISE + FIELD)


@dataclass(eq=False)
class Work:
    """A face on the device's road, and what its next steps are."""

    face: Climb
    #: A unit vector for each of several guides, towards which the steps lead besides; none for a single guide.
    decoys: list[Float32]
    #: Of the next steps, and the share of the bound that they may use.
    chances: list[Chance]
    room: float


@dataclass(eq=False)
class Packed:
    """Faces of one size of canvas, side by side: B of them."""

    #: (B, S, S, 3) uint8: the canvas; what lies beyond its height and width is anything.
    pixels: UInt8
    #: (B, `STATE`): noise, field, and the momenta of both; a noise of fewer pixels lies at the top left.
    state: Float32
    #: (B, 4 + 6 + 4 + 2): height, width, side of the noise, share of colour; the canvas's map to the template; from
    #: template shifts of the largest size to canvas pixels; and the bound's epsilon and most, in levels.
    numbers: Float32
    #: (B, steps, `STEP` + guides), and (B, 3, `VIEW`): `apf.attack.batched.views`.
    rows: Float32
    views: Float32
    #: (B, D) for each of several guides.
    decoys: list[Float32]

    def arrays(self) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
        """Return all of it by name."""
        found = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "decoys"}
        return found | {f"decoy{number}": one for number, one in enumerate(self.decoys)}


def side_of(shape: Sequence[int]) -> int:
    """Return the size that holds a canvas of so many rows and columns.

    Raises:
        ValueError: none does; a similarity's canvas is smaller.
    """
    found = next((side for side in SIDES if side >= max(shape[:2])), None)
    if found is None:
        raise ValueError(f"a canvas of {shape[1]} by {shape[0]} pixels has no size: none is above {SIDES[-1]}")
    return found


def packed(works: Sequence[Work], side: int, guides: int) -> Packed:
    """Return faces side by side; all take equally many steps, in the same room, on so many guides."""
    count = len(works)
    pixels = np.zeros((count, side, side, 3), np.uint8)
    state = np.zeros((count, STATE), np.float32)
    for index, work in enumerate(works):
        canvas = work.face.canvas
        height, width = canvas.pixels.shape[:2]
        pixels[index, :height, :width] = canvas.pixels
        _write(state[index], work.face)
    matrices = np.stack([work.face.canvas.matrix for work in works])
    sizes = np.array([work.face.canvas.rect[2:] for work in works], np.float64)
    return Packed(
        pixels,
        state,
        np.stack([_numbers(work.face) for work in works]),
        step_rows([work.chances for work in works], matrices, sizes, guides, works[0].room),
        jury_rows(matrices, sizes),
        [np.stack(one) for one in zip(*(work.decoys for work in works), strict=True)],
    )


def _numbers(face: Climb) -> Float32:
    height, width = face.canvas.pixels.shape[:2]
    colour = 0.0 if face.grey else face.allowed.chroma
    sizes, matrix = (height, width, face.latents[0].shape[-1], colour), face.canvas.matrix
    # As `apf.attack.perturbation.Drawing` turns shifts along the photo's axes.
    turned = np.linalg.inv(matrix[:, :2]) * (face.allowed.warp * FACE_SIDE)
    levels = face.allowed.epsilon, face.allowed.most
    return np.concatenate([sizes, matrix.ravel(), turned.ravel(), levels]).astype(np.float32)


def _write(row: Float32, face: Climb) -> None:
    side = face.latents[0].shape[-1]
    for start, (noise, warp) in ((0, face.latents), (NOISE + FIELD, face.momenta)):
        row[start : start + NOISE].reshape(3, CROP, CROP)[:, :side, :side] = noise
        row[start + NOISE : start + NOISE + FIELD] = warp.ravel()


def read(row: Float32, face: Climb) -> None:
    """Note in a face what the steps made of its state."""
    side = face.latents[0].shape[-1]
    for start, kept in ((0, face.latents), (NOISE + FIELD, face.momenta)):
        kept[0] = row[start : start + NOISE].reshape(3, CROP, CROP)[:, :side, :side].copy()
        kept[1] = row[start + NOISE : start + NOISE + FIELD].reshape(2, KNOTS, KNOTS).copy()


def read_bound(rows: Float32, face: Climb) -> None:
    """Note in a face's canvas the bound that was found for it, (S, S): pasting needs it, too."""
    height, width = face.canvas.pixels.shape[:2]
    face.canvas.bound = rows[:height, :width].copy()
