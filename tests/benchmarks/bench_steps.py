"""Milliseconds a face: our steps, the same by plain torch, and rivals. `python -m tests.benchmarks.bench_steps`.

A face of 100, 300 and 1000 pixels, in turns, in one process: first one face on one core, then as many faces as there
are cores on all of them. A ratio is of one turn, so that whatever else the machine does meets both. "standard" is all
of a recipe's steps on its guides, with start and verdict; "apf-mfn" is so many steps on that guide alone. The rivals
climb on the recognisers of `--models`, on crops, and are left out where there are none.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from skimage.data import astronaut

from apf.attack.protect_face import Task, hide
from apf.attack.recipe_guides import load_guides
from apf.faces.alignment import align, alignment
from apf.filters.load import load_filter
from apf.recipe import Recipe, load_recipe
from apf.research.evaluate.rivals import lowkey, momentum_attack
from apf.research.model_list import load_recognisers
from apf.runtime.cores import use_cores
from tests.benchmarks.plain_torch import PlainSteps
from tests.benchmarks.record import MODELS, cores, machine, record, table

SIDES = (100, 300, 1000)
OURS, TORCH, MI_DI, LOWKEY = "ours", "plain torch", "MI-DI-40", "LowKey-like"
ONE_GUIDE = "apf-mfn"

Method = Callable[[Sequence[Task]], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of ONNX recognisers with a models.json")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES, help="heights of faces' boxes, in pixels")
    parser.add_argument("--one-guide-steps", type=int, default=3, help=f"steps on {ONE_GUIDE} alone")
    parser.add_argument("--short", action="store_true", help="one turn of the smallest face, no rivals")
    parser.add_argument("--cpu-time", action="store_true", help="count processor time: for a machine that others use")
    asked = parser.parse_args()
    if asked.short:
        asked.turns, asked.sides, asked.models = 1, asked.sides[:1], None
    clock = time.process_time if asked.cpu_time else time.perf_counter
    whole = load_recipe("standard")
    alone = Recipe(name="alone", epsilon_levels=8, steps=asked.one_guide_steps, guides=(ONE_GUIDE,))
    built = {
        whole.name: methods(whole, asked.models),
        f"{ONE_GUIDE}, {alone.steps} steps": methods(alone, None),
    }
    rows: list[dict[str, object]] = []
    for count in sorted({1, cores()}):
        use_cores(count)
        torch.set_num_threads(count)
        cv2.setNumThreads(count)
        for side in asked.sides:
            tasks = [face_of(side)] * count
            for work, ways in built.items():
                found = in_turns(ways, tasks, asked.turns, clock)
                rows += [{"cores": count, "face, px": side, "work": work} | row for row in compared(found)]
    counted = ", processor time of all cores" if asked.cpu_time else ""
    print(f"{asked.turns} turns{counted}; {machine()}:\n\n{table(rows)}\n")
    record("steps", {"turns": asked.turns, "cpu_time": asked.cpu_time, "rows": rows})


def methods(recipe: Recipe, models: Path | None) -> dict[str, Method]:
    """By name; the rivals only where the folder of recognisers is there."""
    guides, plain = load_guides(recipe), PlainSteps.of(recipe)
    found: dict[str, Method] = {OURS: lambda tasks: hide(tasks, recipe, guides), TORCH: plain}
    if models and models.is_dir():
        attacked = list(load_recognisers(models, role="train").values())
        found[MI_DI] = on_crops(momentum_attack(attacked, recipe.epsilon, 40, seed=0))
        found[LOWKEY] = on_crops(lowkey(attacked, recipe.epsilon))
    return found


def on_crops(attack: Callable[[torch.Tensor], object]) -> Method:
    return lambda tasks: attack(torch.from_numpy(np.stack([align(task.pixels, task.matrix) for task in tasks])))


def face_of(side: int) -> Task:
    """The astronaut's photo at the size at which the face's box has this height, with a sensor's grain."""
    photo = astronaut()
    face = load_filter("fast").detector.detect([photo])[0][0]
    factor = side / (face.box[3] - face.box[1])
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    large = cv2.resize(photo, None, fx=factor, fy=factor, interpolation=how)
    grain = np.random.default_rng(0).normal(0, 3, (*large.shape[:2], 1))
    pixels = np.rint(large + grain).clip(0, 255).astype(np.uint8)
    landmarks = np.array(face.landmarks) * factor + (factor - 1) / 2
    return Task(pixels, alignment(landmarks), grey=False, start=None)


def in_turns(
    ways: Mapping[str, Method], tasks: Sequence[Task], turns: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds a face of each way in each turn; all but the slowest go once before, to warm up."""
    for name, way in ways.items():
        if name not in (MI_DI, LOWKEY):
            way(tasks)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, way in ways.items():
            started = clock()
            way(tasks)
            seconds[name].append((clock() - started) / len(tasks))
    return seconds


def compared(seconds: Mapping[str, Sequence[float]]) -> list[dict[str, object]]:
    """A row for each way, with its ratios to ours turn by turn."""
    rows = []
    for name, own in seconds.items():
        ratios = [theirs / ours for theirs, ours in zip(own, seconds[OURS], strict=True)]
        row: dict[str, object] = {"way": name, "ms a face": 1000 * statistics.median(own)}
        row |= {"least": 1000 * min(own), "most": 1000 * max(own), "faces/s": 1 / statistics.median(own)}
        times = {"times ours": statistics.median(ratios), "smallest": min(ratios), "largest": max(ratios)}
        rows.append(row | (times if name != OURS else {}))
    return rows


if __name__ == "__main__":
    main()
