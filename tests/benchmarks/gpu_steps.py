"""The steps' tables of `bench_gpu`: faces a second, where a step's time goes, the host's part, equality with a CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from apf.attack.batched.packing import packed, side_of
from apf.attack.batched.road import BatchedRoad
from apf.attack.bound import Bound
from apf.attack.canvas import canvas_size
from apf.attack.gradient_steps import begin_climb
from apf.attack.paste import paste
from apf.attack.protect_face import Hidden, Task, hide
from apf.attack.recipe_guides import Guides, load_guides
from apf.faces.alignment import align
from apf.filters.precision import chosen
from apf.filters.steps_road import road_on
from apf.filters.torch_filter import Filter
from apf.guides.loading import find_source
from apf.guides.torch_guide import torch_guide, torch_probe
from apf.recipe import BUILT_IN, DEFAULT_GUIDES, Recipe, make_recipe
from apf.runtime.cuda.batches import FACE_BATCHES
from apf.runtime.stage_clock import StageClock
from tests.benchmarks.bench_steps import face_of
from tests.benchmarks.gpu_measure import busy_share, peak_gb, rate, reset_peak, wait

Figures = dict[str, Any]

#: Different faces, which come again and again.
DISTINCT = 8


@dataclass
class Setting:
    """One way to do a recipe's steps on a device."""

    recipe: Recipe
    device: str
    precision: str = "auto"
    graphs: bool = True

    def __post_init__(self) -> None:
        self.filter = Filter.load(self.recipe, self.device, precision=self.precision, graphs=self.graphs)  # type: ignore[arg-type]
        self.road = self.made()

    def made(self, run: Callable[[str, Callable[[], Tensor]], Tensor] | None = None) -> BatchedRoad:
        """A road of its own: on a CPU the filter has none."""
        device = torch.device(self.device)
        guides = Guides(*(tuple(self._guide(one) for one in names) for names in (self.recipe.guides, self.recipe.jury)))
        road = road_on(device, guides, chosen(self.precision, device), graphs=self.graphs and run is None)
        if device.type == "cpu":
            road._sizes = (1, 2, 4)
        if run:
            road._run = run
        return road

    def _guide(self, name: str):  # type: ignore[no-untyped-def]
        return torch_probe(self.device) if name == "probe" else torch_guide(find_source(name), self.device)

    def whole(self, tasks: Sequence[Task]) -> list[Hidden]:
        """From faces in their photos to changes and verdicts: the modules' start where a recipe has one, the steps."""
        if len(self.recipe.guides) == 1:
            starts = self.filter.changes([align(task.pixels, task.matrix) for task in tasks])
            tasks = [replace(task, start=start) for task, start in zip(tasks, starts, strict=True)]
        return self.road.hide(tasks, self.recipe)


def recipes(*, short: bool) -> dict[str, Recipe]:
    """`standard`, `fast`, and `standard` with a jury; of one or two steps where it has to be short."""
    standard = {"epsilon_levels": 8, "guides": DEFAULT_GUIDES, "steps": 1 if short else 20}
    fields = {
        "standard": standard,
        "fast": BUILT_IN["fast"] | ({"steps": 1} if short else {}),
        "standard, jury": standard | {"jury": ("probe",), "steps": 2 if short else 20},
    }
    return {name: make_recipe({"name": name, **one}) for name, one in fields.items()}


def tasks_of(side: int, count: int) -> list[Task]:
    """So many faces this high, of which some are different: each has its own grain, and with it its own chances."""
    one, random = face_of(side), np.random.default_rng(side)
    found = []
    for _ in range(min(DISTINCT, count)):
        grain = random.integers(-2, 3, one.pixels.shape)
        found.append(replace(one, pixels=np.clip(one.pixels + grain, 0, 255).astype(np.uint8)))
    return list(islice(cycle(found), count))


def faces_a_second(device: str, seconds: float, *, short: bool) -> Iterator[Figures]:
    """Whole faces a second by recipe, precision, graphs, size of face and faces given at once."""
    ways = [("auto", True), ("auto", False), ("float32", True)]
    for name, recipe in recipes(short=short).items():
        for precision, graphs in ways[:1] if short or "jury" in name else ways:
            setting = Setting(recipe, device, precision, graphs)
            counts = [(100, 1)] if short else [(100, count) for count in FACE_BATCHES]
            if graphs and precision == "auto" and not short:
                counts += [(300, 32), (300, 128), (1000, 32)]
            for side, count in counts:
                yield {"recipe": name, **_faces(setting, tasks_of(side, count), side, seconds)}


def _faces(setting: Setting, tasks: Sequence[Task], side: int, seconds: float) -> Figures:
    reset_peak()
    started = time.perf_counter()
    found = setting.whole(tasks)
    first_s = time.perf_counter() - started
    with busy_share() as samples:
        per_s = rate(lambda: setting.whole(tasks), len(tasks), seconds)
    return {
        "precision": setting.precision,
        "graphs": setting.graphs,
        "face_px": side,
        "faces": len(tasks),
        "faces_per_s": per_s,
        "first_s": first_s,
        "gpu_busy_percent": sum(samples) / len(samples) if samples else None,
        "peak_memory_gb": peak_gb(),
        "graphs_refused": setting.graphs and setting.device != "cpu" and setting.road._capture is None,
        "weak": sum(one.verdict.weak for one in found if one.verdict),
    }


def parts(device: str, *, short: bool) -> Iterator[Figures]:
    """Where a step's time goes, launch by launch, each part waited for: what graphs save is not in it."""
    for name, recipe in recipes(short=short).items():
        if "jury" in name:
            continue
        for side, count in [(100, 1)] if short else [(100, 128), (300, 128), (1000, 32)]:
            clock = StageClock()

            def run(part: str, work: Callable[[], Tensor], clock: StageClock = clock) -> Tensor:
                with clock.stage(part):
                    found = work()
                    wait()
                return found

            setting = Setting(recipe, device)
            setting.road = setting.made(run)
            tasks = tasks_of(side, count)
            if not short:
                setting.whole(tasks)
            before = clock.seconds
            setting.whole(tasks)
            taken = {part: seconds - before.get(part, 0) for part, seconds in clock.seconds.items()}
            shares = {f"{part}_percent": 100 * one / sum(taken.values()) for part, one in taken.items()}
            ms = 1000 * sum(taken.values()) / recipe.steps / count
            yield {"recipe": name, "face_px": side, "faces": count, "ms_a_step_and_face": ms, **shares}


def host(*, short: bool) -> Iterator[Figures]:
    """Milliseconds of one core that the host spends on a face, beside the device: these bound what a GPU can do."""
    recipe = recipes(short=short)["standard"]
    road = Setting(recipe, "cpu").road
    for side in (100,) if short else (100, 300, 1000):
        yield {"face_px": side, **_host(tasks_of(side, 1)[0], recipe, road)}


def _host(task: Task, recipe: Recipe, road: BatchedRoad) -> Figures:
    size, allowed = side_of(canvas_size(task.matrix, task.pixels.shape)), Bound.of(recipe)
    work = road._begun(task, allowed, recipe.steps, 1.0)
    together = [work] * DISTINCT
    return {
        "canvas_px": size,
        "start_ms": _ms(lambda: begin_climb(task.pixels, task.matrix, allowed)),
        "chances_ms": _ms(lambda: road._chances(np.random.default_rng(0), recipe.steps)),
        "pack_ms": _ms(lambda: packed(together, size, len(recipe.guides))) / DISTINCT,
        "paste_ms": _ms(
            lambda: paste(task.pixels, [work.face.change], [task.matrix], allowed, canvases=[work.face.canvas])
        ),
    }


def _ms(work: Callable[[], object]) -> float:
    """Milliseconds of processor time, the least of five."""
    found = []
    for _ in range(5):
        started = time.process_time()
        work()
        found.append(1000 * (time.process_time() - started))
    return min(found)


def equality(device: str, *, short: bool) -> Iterator[Figures]:
    """How far a device's faces lie from a CPU's: by steps, as each step multiplies what rounding leads apart."""
    for name, recipe in recipes(short=short).items():
        for steps in (1,) if short else sorted({1, recipe.steps}):
            for precision in ("float32",) if short or "jury" in name else ("float32", "auto"):
                one = recipe.model_copy(update={"steps": max(steps, 2) if "jury" in name else steps})
                yield {
                    "recipe": name,
                    "steps": one.steps,
                    "precision": precision,
                    **_equality(one, device, precision, short),
                }


def _equality(recipe: Recipe, device: str, precision: str, short: bool) -> Figures:
    tasks = [tasks_of(side, 1)[0] for side in ((60,) if short else (25, 60, 100, 200, 300, 1000))]
    guides = load_guides(recipe)
    setting = Setting(recipe, device, precision)
    if len(recipe.guides) == 1:
        starts = Filter.load(recipe).changes([align(task.pixels, task.matrix) for task in tasks])
        tasks = [replace(task, start=start) for task, start in zip(tasks, starts, strict=True)]
    wanted, found = hide(tasks, recipe, guides), setting.road.hide(tasks, recipe)
    allowed = Bound.of(recipe)
    apart = []
    for task, one, other in zip(tasks, found, wanted, strict=True):
        drawn = [paste(task.pixels, [each.change], [task.matrix], allowed).astype(int) for each in (one, other)]
        moved = (drawn[1] != task.pixels).any(2)
        apart.append(np.abs(drawn[0] - drawn[1])[moved].ravel())
    levels, said = np.concatenate(apart), [(a.verdict, b.verdict) for a, b in zip(found, wanted, strict=True)]
    pairs = [(a, b) for a, b in said if a and b]
    return {
        "faces": len(tasks),
        "mean_levels": float(levels.mean()),
        "largest_levels": int(levels.max()),
        "equal_percent": 100 * float((levels == 0).mean()),
        "within_one_percent": 100 * float((levels <= 1).mean()),
        "likeness_here": float(np.mean([a.likeness for a, _ in pairs])),
        "likeness_cpu": float(np.mean([b.likeness for _, b in pairs])),
        "other_verdicts": sum(a.weak != b.weak for a, b in pairs),
    }
