"""Milliseconds a face: our three stages, PGD-10 on the probe, MI-DI-40. `python -m tests.benchmarks.bench_filter`.

All get the same real faces at once, in turns, in one process: first on one core, then on all. A ratio is of one turn,
so that whatever else the machine does meets both. PGD-10 climbs on our own probe; MI-DI-40 climbs on the recognisers of
`--models` that our training attacked too, as in `python -m apf.research.evaluate`, and is left out where there are
none.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from apf.faces.alignment import Float32, align, alignment
from apf.filters.load import PhotoFilter, load_filter
from apf.filters.torch_filter import Filter
from apf.research.evaluate.rivals import momentum_attack
from apf.research.model_list import load_recognisers
from apf.runtime.cores import use_cores
from tests.benchmarks.photos import cutouts, six
from tests.benchmarks.record import ROOT, cores, record, table

#: Where recognisers are looked for that are no part of this repository; as in the tests.
MODELS = Path(os.environ.get("APF_SHARED") or ROOT.parent / "shared") / "face_models"
OURS, PGD, MI_DI = "ours, all stages", "PGD-10 (probe)", "MI-DI-40"
#: Figure 3 of the issue: how many times as long they take as ours.
AIMS = {MI_DI: 50, PGD: 3}

#: Crops (3, 112, 112) float32 in [0, 1] to their perturbations.
Method = Callable[[list[Float32]], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of ONNX recognisers with a models.json")
    parser.add_argument("--faces", type=int, default=4)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--short", action="store_true", help="one face, one turn, no MI-DI-40")
    parser.add_argument("--cpu-time", action="store_true", help="count processor time: for a machine that others use")
    asked = parser.parse_args()
    if asked.short:
        asked.faces = asked.turns = 1
    clock = time.process_time if asked.cpu_time else time.perf_counter
    built = methods(load_filter(), None if asked.short else asked.models)
    crops = real_faces(load_filter(), asked.faces)
    rows = []
    for count in sorted({1, cores()}):
        use_cores(count)
        torch.set_num_threads(count)
        rows += compared(in_turns(built, crops, asked.turns, clock), count)
    print(f"{asked.faces} faces at once, {asked.turns} turns{', processor time' if asked.cpu_time else ''}:\n")
    print(f"{table(rows)}\n")
    record("filter", {"faces": asked.faces, "turns": asked.turns, "cpu_time": asked.cpu_time, "methods": rows})


def methods(ours: PhotoFilter, models: Path | None) -> dict[str, Method]:
    """By name; MI-DI-40 only where the folder of recognisers is there."""
    epsilon = ours.recipe.epsilon
    pgd = momentum_attack(
        [Filter.load(ours.recipe).probe], epsilon, 10, momentum=0.0, diversity=0.0, step=epsilon / 4, seed=0
    )
    found: dict[str, Method] = {OURS: ours.perturb, PGD: lambda crops: pgd(torch.from_numpy(np.stack(crops)))}
    if models and models.is_dir():
        mi_di = momentum_attack(list(load_recognisers(models, role="train").values()), epsilon, 40, seed=0)
        found[MI_DI] = lambda crops: mi_di(torch.from_numpy(np.stack(crops)))
    return found


def real_faces(filter: PhotoFilter, count: int) -> list[Float32]:
    """Aligned crops of six people, again and again."""
    faces = [
        align(photo, alignment(face.landmarks))
        for photo in cutouts(filter.detector, six())
        for face in filter.detector.detect([photo])[0][:1]
    ]
    return [faces[number % len(faces)] for number in range(count)]


def in_turns(
    methods: Mapping[str, Method], crops: list[Float32], turns: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of each method in each turn, after one face to warm up."""
    for method in methods.values():
        method(crops[:1])
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(turns):
        for name, method in methods.items():
            started = clock()
            method(crops)
            seconds[name].append((clock() - started) / len(crops))
    return seconds


def compared(seconds: Mapping[str, Sequence[float]], cores: int) -> list[dict[str, object]]:
    """A row for each method, with its ratios to ours turn by turn."""
    rows = []
    for name, own in seconds.items():
        ratios = [theirs / ours for theirs, ours in zip(own, seconds[OURS], strict=True)]
        spread = {"median": 1000 * statistics.median(own), "min": 1000 * min(own), "max": 1000 * max(own)}
        times = {"times ours": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
        row: dict[str, object] = {"cores": cores, "method": name}
        row |= {f"ms a face, {what}": value for what, value in spread.items()}
        rows.append(row | ({**times, "aim": AIMS[name]} if name in AIMS else {}))
    return rows


if __name__ == "__main__":
    main()
