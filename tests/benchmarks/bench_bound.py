"""The bound, and what the worker reaches of it: `python -m tests.benchmarks.bench_bound [--short]`.

What counts as the bound: the work that no worker can do without, if it is to give these files from those, by the
quickest way known here of each part (`parts.py`), on all cores at once (`side_by_side.py`), with no core ever waiting.

- Counted: read, decode in full, detect, align, each face's modules (where the recipe runs them), start, steps and
  verdict, paste, encode with the source's own tables and optimised codes, write. Finding faces and the steps are the
  recipe's own networks: a better network is another recipe. Detection may start from a decode by DCT scaling, if that
  costs less in all.
- Not counted, though the worker does it: decoders in processes of their own, and the pickling that this takes; headers
  read beforehand; tests for grey photos; copies of whole photos; sums and sidecars of the store, and waiting for the
  disk; plans, leases and reports; threads that wait for each other at the start and the end of a shard.

What is reached: `apf protect` between two folders in a process that has its models loaded, by the seconds from each
shard's start to its last output; what the command adds around its shards stands in the column beside it. Floor and
worker are measured right after each other for each kind of photo, several times. It is the CPU's bound, whatever GPU
there is. With `--cpu-time` both are counted in processor time, for machines that others use as well: the ratio then
tells of needless work, and nothing of cores that wait.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from apf.recipe import DEFAULT_RECIPE
from tests.benchmarks.photos import FACE_HEIGHT, jpeg
from tests.benchmarks.record import cores, record, table
from tests.benchmarks.side_by_side import SideBySide, Times
from tests.benchmarks.warm_worker import WarmWorker

#: Share of the bound that every kind of photo should reach.
AIM = 0.9
#: Each part, in the order in which a photo meets them.
PARTS = ("read", "decode", "detect", "align", "modules", "start", "steps", "jury", "paste", "encode", "write")
#: Different photos of a kind; more are copies of these.
PHOTOS = 2


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    megapixels: Sequence[float] = (1, 4, 12, 48)
    faces: Sequence[int] = (0, *FACE_HEIGHT)
    #: Of each part, and of the worker.
    runs: int = 3
    #: That a run of the worker is meant to take.
    run_s: float = 12.0


SHORT = Plan(megapixels=(1,), faces=(0, 1), runs=1, run_s=1.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="one small photo with and without a face, once")
    parser.add_argument("--megapixels", type=float, nargs="+", default=None)
    parser.add_argument("--faces", type=int, nargs="+", choices=(0, *FACE_HEIGHT), default=None)
    parser.add_argument("--runs", type=int, default=None)
    parser.add_argument("--recipe", default=DEFAULT_RECIPE)
    parser.add_argument("--cpu-time", action="store_true", help="count processor time")
    asked = vars(parser.parse_args())
    short, cpu_time, recipe = asked.pop("short"), asked.pop("cpu_time"), asked.pop("recipe")
    plan = replace(SHORT if short else Plan(), **{name: value for name, value in asked.items() if value is not None})
    clock = time.process_time if cpu_time else time.perf_counter
    worker = WarmWorker({"APF_DEVICE": "cpu"}, "--recipe", recipe)
    with closing(SideBySide(_core_numbers(), clock, recipe)) as machine, closing(worker):
        figures = {"recipe": recipe, **measured(plan, machine, worker, cpu_time=cpu_time)}
    print(report(figures))
    record("bound", figures)


def measured(plan: Plan, machine: SideBySide, worker: WarmWorker, *, cpu_time: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        _reached(worker, [jpeg(1, 1)], Path(folder), runs=1)  # its models load while the other processes load theirs
    machine.ready()
    kinds = []
    for megapixels in plan.megapixels:
        for faces in plan.faces:
            print(f"{megapixels:g} megapixels, {faces} faces", file=sys.stderr)
            photos = [jpeg(megapixels, faces, seed) for seed in range(PHOTOS)]
            times = machine.photo(photos[0], faces, plan.runs)
            bound = floor(times, cores())
            count = min(256, max(4, round(plan.run_s / bound["floor_s"])))
            with tempfile.TemporaryDirectory() as folder:
                runs = _reached(worker, (photos * count)[:count], Path(folder), plan.runs)
            _check_faces(runs, count * faces)
            worked = reached(runs, bound["floor_s"], cores(), cpu_time=cpu_time)
            kind = {"megapixels": megapixels, "faces": faces, "photos": count}
            kinds.append({**kind, **bound, **worked, "part_core_s": spread_of(times)})
    return {"cores": cores(), "cpu_time": cpu_time, "kinds": kinds}


def floor(times: Times, cores: int) -> dict[str, Any]:
    """Seconds a photo that the parts take, each by its quickest way, on all cores; and how they add up.

    Args:
        times: core seconds by part and way, as `SideBySide` gives them.

    Returns:
        `floor_s`, and `floor_min_s` and `floor_max_s` from the quickest and slowest runs; `floor_core_s` by part;
        `dct_saves`, the share of the floor that detecting in a scaled decode takes off (below 0: it costs more), None
        where the photo is too small for that.
    """
    best = {part: quickest(ways) for part, ways in times.items()}
    whole, scaled = best["detect"], _added(best.get("decode reduced"), best.get("detect reduced"))
    if scaled and statistics.median(scaled) < statistics.median(whole):
        best["detect"] = scaled
    used = {part: best[part] for part in PARTS if part in best}
    core_s = {part: statistics.median(seconds) for part, seconds in used.items()}
    total = sum(core_s.values())
    saved = statistics.median(whole) - statistics.median(scaled) if scaled else None
    others = total - core_s["detect"] + statistics.median(whole)
    return {
        "floor_s": total / cores,
        "floor_min_s": sum(map(min, used.values())) / cores,
        "floor_max_s": sum(map(max, used.values())) / cores,
        "floor_core_s": core_s,
        "dct_saves": None if saved is None else saved / others,
    }


def quickest(ways: Mapping[str, list[float]]) -> list[float]:
    """The times of the way with the smallest median."""
    return min(ways.values(), key=statistics.median)


def reached(runs: Sequence[Mapping[str, Any]], floor_s: float, cores: int, *, cpu_time: bool) -> dict[str, Any]:
    """What the worker makes of it: seconds a photo, the floor's share of them, and how busy the cores are."""
    each = [(run["cpu_s"] / cores if cpu_time else run["wall_seconds"]) / run["photos"] for run in runs]
    ratios = [floor_s / one for one in each]
    wall = sum(run["wall_seconds"] for run in runs)
    stages = {name for run in runs for name in run["stage_seconds"]}
    photos = sum(run["photos"] for run in runs)
    return {
        "reached_s": statistics.median(each),
        "command_s": statistics.median(run["command_s"] / run["photos"] for run in runs),
        "cpu_s": sum(run["cpu_s"] for run in runs) / photos,
        "busy": sum(run["cpu_s"] for run in runs) / (wall * cores),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "stage_thread_s": {n: sum(run["stage_seconds"].get(n, 0) for run in runs) / photos for n in sorted(stages)},
        "peak_memory_mb": max(run["peak_memory_bytes"] for run in runs) / 2**20,
    }


def spread_of(times: Times) -> dict[str, dict[str, dict[str, float]]]:
    """Median, smallest and largest of each part and way."""
    return {
        part: {
            way: {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}
            for way, seconds in ways.items()
        }
        for part, ways in times.items()
    }


def report(figures: Mapping[str, Any]) -> str:
    """The tables: bound and worker, the floor's parts, each way of each part."""
    kinds = figures["kinds"]
    reached_all = all(kind["ratio"] >= AIM for kind in kinds)
    return "\n\n".join(
        [
            f"Bound and worker in {figures['recipe']}, {figures['cores']} cores"
            f"{', processor time' if figures['cpu_time'] else ''}:",
            table([_bound_row(kind) for kind in kinds]),
            f"{'Every' if reached_all else 'Not every'} kind of photo reaches the aim of {AIM}.",
            "The floor's parts, core milliseconds a photo:",
            table([_parts_row(kind) for kind in kinds]),
            "Each way of each part, core milliseconds a photo:",
            table(
                [row for kind in kinds if kind["faces"] == max(k["faces"] for k in kinds) for row in _ways_rows(kind)]
            ),
            "",
        ]
    )


def _bound_row(kind: Mapping[str, Any]) -> dict[str, object]:
    saves = kind["dct_saves"]
    return {
        "megapixels": f"{kind['megapixels']:g}",
        "faces": str(kind["faces"]),
        "floor, s": kind["floor_s"],
        "floor, min to max": f"{kind['floor_min_s']:.3f} to {kind['floor_max_s']:.3f}",
        "floor, photos/s": 1 / kind["floor_s"],
        "reached, photos/s": 1 / kind["reached_s"],
        "ratio": f"{kind['ratio']:.2f}",
        "ratio, min to max": f"{kind['ratio_min']:.2f} to {kind['ratio_max']:.2f}",
        "whole command, s": kind["command_s"],
        "cores busy": f"{100 * kind['busy']:.0f} %",
        "peak, MB": f"{kind['peak_memory_mb']:.0f}",
        "DCT scaling saves": "" if saves is None else f"{100 * saves:.1f} %",
    }


def _parts_row(kind: Mapping[str, Any]) -> dict[str, object]:
    parts = {part: 1000 * kind["floor_core_s"][part] for part in PARTS if part in kind["floor_core_s"]}
    named = {"megapixels": f"{kind['megapixels']:g}", "faces": str(kind["faces"])}
    worker = {"worker, CPU": 1000 * kind["cpu_s"]}
    return {**named, **dict.fromkeys(PARTS), **parts, "sum": sum(parts.values()), **worker}


def _ways_rows(kind: Mapping[str, Any]) -> list[dict[str, object]]:
    return [
        {"megapixels": f"{kind['megapixels']:g}", "part": part, "by": way, **_in_ms(seconds)}
        for part, ways in kind["part_core_s"].items()
        for way, seconds in ways.items()
    ]


def _in_ms(seconds: Mapping[str, float]) -> dict[str, object]:
    return {"median": 1000 * seconds["median"], "min": 1000 * seconds["min"], "max": 1000 * seconds["max"]}


def _added(first: list[float] | None, second: list[float] | None) -> list[float] | None:
    return [a + b for a, b in zip(first, second, strict=True)] if first and second else None


def _reached(worker: WarmWorker, photos: Sequence[bytes], folder: Path, runs: int) -> list[dict[str, Any]]:
    source = folder / "in"
    source.mkdir()
    for number, data in enumerate(photos):
        (source / f"{number:04}.jpg").write_bytes(data)
    return [worker.protect(source, folder / f"out {run}") for run in range(runs)]


def _check_faces(runs: Sequence[Mapping[str, Any]], faces: int) -> None:
    for run in runs:
        if run["faces"] != faces:
            raise SystemExit(f"the worker found {run['faces']} faces in photos made with {faces}")


def _core_numbers() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(cores()))


if __name__ == "__main__":
    main()
