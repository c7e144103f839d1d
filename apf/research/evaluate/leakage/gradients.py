"""The gradients that devices would send of all faces, computed once and kept."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from apf.filters.torch_filter import Filter
from apf.private.quantise import Float32
from apf.research.evaluate.crops import fingerprint
from apf.research.train.data import Faces
from apf.research.train.teachers import channels_last
from apf.stages.compose import start_of
from apf.stages.constants import CHANNELS
from apf.stages.gradient import gradient

#: Faces whose gradients are computed side by side.
BATCH = 16


@dataclass(frozen=True, eq=False)
class Sent:
    """Faces and, for each, what its device computes of it."""

    faces: Faces
    #: (M, 6, 112, 112) float16, most often on disk, of these faces and of others.
    gradients: NDArray[np.float16]
    #: Where in `gradients` each face's is.
    places: tuple[int, ...]
    #: One for each face, from its pixels alone: the same photo gives the same seed.
    seeds: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.faces)

    def of(self, index: Tensor) -> Float32:
        """Return the gradients (n, 6, 112, 112) float32 of the faces at these positions."""
        return self.gradients[[self.places[i] for i in index.tolist()]].astype(np.float32)

    def select(self, keep: list[int]) -> Sent:
        """Return some of the faces."""
        places, seeds = tuple(self.places[i] for i in keep), tuple(self.seeds[i] for i in keep)
        return Sent(self.faces.select(keep), self.gradients, places, seeds)


def seeds_of(pixels: Tensor) -> tuple[int, ...]:
    """Return a seed of 63 bits for each face (N, 3, 112, 112) uint8."""
    digests = (hashlib.sha256(face.contiguous().numpy().tobytes()).digest() for face in pixels)
    return tuple(int.from_bytes(digest[:8], "big") >> 1 for digest in digests)


def sent(faces: Faces, filter_: Filter, file: Path) -> Sent:
    """Return the gradients of all faces, from `file` where it holds those of these very faces; a broken-off run goes
    on.

    Beside the file lies another one, which says what the gradients were made of and how many are done.
    """
    key = fingerprint(filter_.recipe.id, faces.pixels)
    state = file.with_suffix(".json")
    kept = json.loads(state.read_text()) if state.exists() and file.exists() else {}
    done = int(kept["done"]) if kept.get("key") == key else 0
    file.parent.mkdir(parents=True, exist_ok=True)
    shape = (len(faces), CHANNELS, *faces.pixels.shape[2:])
    found = np.lib.format.open_memmap(file, mode="r+" if done else "w+", dtype=np.float16, shape=shape)
    for first in tqdm(range(done, len(faces), BATCH), desc="gradients", unit="batch"):
        index = torch.arange(first, min(first + BATCH, len(faces)))
        found[first : first + len(index)] = gradients_of(filter_, faces.batch(index))
        if first % (10 * BATCH) == 0 or first + BATCH >= len(faces):
            found.flush()
            state.write_text(json.dumps({"key": key, "done": first + len(index)}))
    return Sent(faces, found, tuple(range(len(faces))), seeds_of(faces.pixels))


def gradients_of(filter_: Filter, faces: Tensor) -> Float32:
    """Return what a device computes of faces (B, 3, 112, 112) in [0, 1]: (B, 6, 112, 112)."""
    seen = channels_last(faces.to(filter_.device))
    start = start_of(filter_.uap, filter_.recipe.stages, 1)
    found: Float32 = gradient(filter_.probe, seen, filter_.recipe.epsilon, start).cpu().contiguous().numpy()
    return found
