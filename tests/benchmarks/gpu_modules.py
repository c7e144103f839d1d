"""The tables of `bench_gpu` that are of single networks: the three modules, the detector, and how far bits differ."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, get_args

import numpy as np
import torch

from apf.detection.centerface_torch import CenterFace
from apf.faces.alignment import align, alignment
from apf.filters.precision import Precision
from apf.filters.torch_filter import Filter
from apf.recipe import load_recipe
from apf.research.evaluate.devices import differences
from apf.runtime.cuda.batches import FACE_BATCHES, TILE_BATCHES
from apf.runtime.stage_clock import StageClock
from tests.benchmarks.gpu_measure import decoded, rate

#: Height and width of the detector's tiles: a photo of a megapixel, and the coarse level of any photo.
TILES = ((816, 1224), (352, 512))

Figures = dict[str, Any]


def stages(device: str, seconds: float, sizes: tuple[int, ...] = FACE_BATCHES) -> Iterator[Figures]:
    """Faces a second, from host memory to host memory, by precision, with and without graphs, and batch."""
    for precision in get_args(Precision)[1:]:
        for graphs in (False, True):
            filter = Filter.load("standard", device, precision=precision, graphs=graphs)
            for size in sizes:
                yield _stages(filter, size, seconds, precision, graphs)


def _stages(filter: Filter, size: int, seconds: float, precision: str, graphs: bool) -> Figures:
    faces = torch.rand(size, 3, 112, 112, generator=torch.Generator().manual_seed(size))
    started = time.perf_counter()
    filter.perturbation(faces)
    first_s = time.perf_counter() - started
    clock = StageClock()
    per_s = rate(lambda: filter.perturbation(faces, clock).cpu(), size, seconds)
    whole = sum(clock.seconds.values())
    runner = filter._runners.get("_stages")
    return {
        "precision": precision,
        "graphs": graphs,
        # A smaller one where the first did not fit, or its graph was refused.
        "largest_batch": runner.limit.most if runner else None,
        "graphs_used": sum(batch.replay is not None for batch in runner._kept.batches.values()) if runner else 0,
        "faces": size,
        "faces_per_s": per_s,
        "first_s": first_s,
        **{f"{stage}_percent": 100 * taken / whole for stage, taken in clock.seconds.items()},
    }


def tiles(device: str, seconds: float, sizes: tuple[int, ...] = TILE_BATCHES) -> Iterator[Figures]:
    """The detector's tiles a second, pixels up and faces out, by shape and number given at once."""
    detector = CenterFace(device)
    random = np.random.default_rng(0)
    for height, width in TILES:
        tile = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        for size in sizes:
            per_s = rate(lambda given=[tile] * size: detector.find(given), size, seconds)  # type: ignore[misc]
            yield {"height": height, "width": width, "tiles": size, "tiles_per_s": per_s}


def agreement(device: str, data: list[bytes]) -> Iterator[Figures]:
    """How far the device's perturbations of real faces lie from torch's on the CPU
    (`apf.research.evaluate.devices`).
    """
    photos = [decoded(one).pixels for one in data]
    reference = Filter.load(load_recipe("standard"))
    found = reference.detector.detect(photos)
    crops = [align(photo, alignment(face.landmarks)) for photo, own in zip(photos, found, strict=True) for face in own]
    faces = torch.from_numpy(np.stack(crops))
    for precision in get_args(Precision)[1:]:
        for graphs in (False, True):
            filter = Filter.load("standard", device, precision=precision, graphs=graphs)
            for one in differences(faces, filter, reference, (1, 8, len(faces))):
                yield {"precision": precision, "graphs": graphs, **asdict(one)}
