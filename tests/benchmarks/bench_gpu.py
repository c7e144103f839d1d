"""What a GPU does: `python -m tests.benchmarks.bench_gpu [--short]`; under eight minutes, nothing without a GPU.

Whole faces a second through start, steps and verdict, by recipe, batch and precision, with CUDA graphs and without;
where a step's time goes; what the host adds; how far a GPU's faces lie from a CPU's. Photos of a megapixel a second
from file to file in both recipes, with the GPU's busy share. The three modules alone, the detector's tiles, and JPEG
decoding on the GPU against the CPU's threads. Each table is printed when it is done, also where a later one fails:
then the failure is printed in its place, and the exit status is 1. What no time is left for is left out, and said.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch

from apf.filters.torch_filter import Filter
from apf.protect.pipeline import protect_batch
from apf.protect.publish import encoded
from apf.runtime.cuda.batches import FACE_BATCHES, TILE_BATCHES
from apf.runtime.stage_clock import StageClock
from tests.benchmarks import gpu_modules, gpu_steps
from tests.benchmarks.bench_protect import make_photos
from tests.benchmarks.gpu_measure import busy_share, decoded, peak_gb, rate, reset_peak
from tests.benchmarks.record import cores, record, table

#: When this process began to measure.
STARTED = time.perf_counter()
#: Photos that go through the detector and the filter together.
PHOTOS_TOGETHER = 32
#: Different photos, which come again and again: making more takes longer than protecting them.
DISTINCT = 64
Figures = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--threads", type=int, default=cores(), help="that decode and encode")
    parser.add_argument("--within-s", type=float, default=440, help="no row begins after so many seconds")
    given = parser.parse_args(arguments)
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        print("bench_gpu: skipped, it needs a CUDA device", file=sys.stderr)
        return 0
    if given.device == "cpu":
        torch.set_num_threads(1)  # a second thread waits for other programs of the machine
    figures: dict[str, list[Figures]] = {}
    failed = []
    for name, work in tables(given.device, given.threads, short=given.short).items():
        figures[name], failure = until(time.perf_counter() - STARTED, given.within_s, work)
        print(f"## {name}\n\n{table(figures[name]) if figures[name] else '(no rows)'}\n{failure or ''}", flush=True)
        if failure:
            failed.append(name)
    record("gpu", figures | {"failed": [{"table": name} for name in failed]})
    return 1 if failed else 0


def until(passed_s: float, within_s: float, work: Callable[[], Iterable[Figures]]) -> tuple[list[Figures], str | None]:
    """The rows that a table gets done in what is left of the time, and what went wrong, if anything did."""
    rows: list[Figures] = []
    if passed_s > within_s:
        return rows, "no time was left for it"
    started = time.perf_counter()
    try:
        for row in work():
            rows.append(row)
            if passed_s + time.perf_counter() - started > within_s:
                return rows, f"no time was left after {len(rows)} rows"
    except Exception:  # whatever a table dies of, the others are worth having
        return rows, traceback.format_exc(limit=-6)
    return rows, None


def tables(device: str, threads: int, *, short: bool) -> dict[str, Callable[[], Iterable[Figures]]]:
    """All tables, by name, those that matter most first."""
    seconds = 0.0 if short else 2.0
    tiny = short and device == "cpu"
    data = made(1 if tiny else 64 if short else 1024)
    sizes, shapes = ((1,), (1,)) if tiny else (FACE_BATCHES, TILE_BATCHES)
    return {
        "steps": lambda: gpu_steps.faces_a_second(device, seconds, short=short),
        "end_to_end": lambda: end_to_end(device, threads, data, short=short),
        "parts_of_a_step": lambda: gpu_steps.parts(device, short=short),
        "equality": lambda: gpu_steps.equality(device, short=short),
        "host": lambda: gpu_steps.host(short=short),
        "agreement_of_modules": lambda: gpu_modules.agreement(device, data[: 1 if short else 16]),
        "stages": lambda: gpu_modules.stages(device, seconds, sizes),
        "tiles": lambda: gpu_modules.tiles(device, seconds, shapes),
        "decode": lambda: decoding(device, threads, data, seconds),
    }


def made(photos: int) -> list[bytes]:
    """So many photos of a megapixel, of which some are different."""
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "in"
        make_photos(files, 1, min(photos, DISTINCT))
        distinct = [file.read_bytes() for file in sorted(files.iterdir())]
    return list(islice(cycle(distinct), photos))


def decoding(device: str, threads: int, data: list[bytes], seconds: float) -> list[Figures]:
    """JPEGs of a megapixel a second: by the worker's decoder in threads, and by nvJPEG, where torchvision has it."""
    some = data[: 4 * threads]
    with ThreadPoolExecutor(threads) as pool:
        by_threads = rate(lambda: list(pool.map(decoded, some)), len(some), seconds)
    rows: list[Figures] = [{"by": f"{threads} threads", "photos_per_s": by_threads, "note": ""}]
    try:
        rows.append({"by": "nvJPEG", "photos_per_s": _nvjpeg(device, some, seconds), "note": "left on the GPU"})
    except (ImportError, AttributeError, RuntimeError) as error:
        rows.append({"by": "nvJPEG", "photos_per_s": None, "note": f"{type(error).__name__}: {str(error)[:80]}"})
    return rows


def _nvjpeg(device: str, data: list[bytes], seconds: float) -> float:
    if not device.startswith("cuda"):
        raise RuntimeError("needs a CUDA device")
    from torchvision.io import ImageReadMode, decode_jpeg  # noqa: PLC0415  deprecated: it may be gone

    given = [torch.frombuffer(bytearray(one), dtype=torch.uint8) for one in data]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated
        return rate(lambda: decode_jpeg(given, mode=ImageReadMode.RGB, device=device), len(given), seconds)


def end_to_end(device: str, threads: int, data: list[bytes], *, short: bool = False) -> Iterator[Figures]:
    """Photos a second from JPEG file to JPEG file, by recipe and precision: threads decode and encode, this one feeds
    the GPU.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{index:05}.jpg") for index in range(len(data))]
        for file, one in zip(files, data, strict=True):
            file.write_bytes(one)
        known = gpu_steps.recipes(short=short)
        ways = [("standard", "auto"), ("fast", "auto"), ("standard", "float32"), ("fast", "float32")]
        for name, precision in ways[:2] if short else ways:
            filter = Filter.load(known[name], device, precision=precision)  # type: ignore[arg-type]
            if len(files) > 1:
                _protect(files[:PHOTOS_TOGETHER], filter, threads)  # sets up what later batches use
            reset_peak()
            done = _protect(files, filter, threads)
            yield {
                "recipe": name,
                "precision": precision,
                "threads": threads,
                **done,
                "peak_memory_gb": peak_gb(),
            }


def _protect(files: list[Path], filter: Filter, threads: int) -> Figures:
    clock = StageClock()
    faces = 0
    started = time.perf_counter()
    with busy_share() as busy, ThreadPoolExecutor(threads) as readers, ThreadPoolExecutor(threads) as writers:
        photos = readers.map(lambda file: decoded(file.read_bytes()), files)
        writing = []
        for start in range(0, len(files), PHOTOS_TOGETHER):
            together = files[start : start + PHOTOS_TOGETHER]
            done = protect_batch([next(photos) for _ in together], filter, clock)
            faces += sum(len(one.faces) for one in done)
            for file, one in zip(together, done, strict=True):
                out = file.with_suffix(".out")
                writing.append(writers.submit(lambda out=out, one=one: out.write_bytes(encoded(one, filter.recipe))))
        for each in writing:
            each.result()
    seconds = time.perf_counter() - started
    return {
        "photos": len(files),
        "faces": faces,
        "photos_per_s": len(files) / seconds,
        "faces_per_s": faces / seconds,
        "gpu_busy_percent": sum(busy) / len(busy) if busy else None,
        "gpu_idle_percent": 100 - sum(busy) / len(busy) if busy else None,
        **{f"{stage}_percent": 100 * taken / seconds for stage, taken in clock.seconds.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
