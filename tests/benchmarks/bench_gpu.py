"""What a GPU does: `python -m tests.benchmarks.bench_gpu [--short]`; a few minutes, nothing without a GPU.

Faces a second through the three stages by batch and precision, with CUDA graphs and without; the detector's tiles a
second; photos of a megapixel a second from file to file, with the GPU's busy share; JPEG decoding on the GPU against
the CPU's threads; and how far the GPU's perturbations lie from the CPU's.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from itertools import cycle, islice
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from apf.detection.centerface_torch import CenterFace
from apf.faces.alignment import align, alignment
from apf.filters.precision import Precision
from apf.filters.torch_filter import Filter
from apf.photo import Limits, decode
from apf.protect.pipeline import protect_batch
from apf.protect.publish import encoded
from apf.recipe import load_recipe
from apf.research.evaluate.devices import differences
from apf.runtime.cuda.batches import FACE_BATCHES, TILE_BATCHES
from apf.runtime.stage_clock import StageClock
from tests.benchmarks.bench_protect import make_photos
from tests.benchmarks.record import cores, record, table

#: Photos that go through the detector and the filter together.
PHOTOS_TOGETHER = 32
#: Different photos, which come again and again: making more takes longer than protecting them.
DISTINCT = 64
#: Height and width of the detector's tiles: a photo of a megapixel, and the coarse level of any photo.
TILES = ((816, 1224), (352, 512))

Figures = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--threads", type=int, default=cores(), help="that decode and encode")
    given = parser.parse_args(arguments)
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        print("bench_gpu: skipped, it needs a CUDA device", file=sys.stderr)
        return 0
    figures = measured(
        given.device, given.threads, seconds=0.2 if given.short else 3, photos=64 if given.short else 1024
    )
    for rows in figures.values():
        print(f"{table(rows)}\n")
    record("gpu", figures)
    return 0


def measured(device: str, threads: int, *, seconds: float, photos: int) -> dict[str, list[Figures]]:
    """All tables, by name."""
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "in"
        make_photos(files, 1, min(photos, DISTINCT))
        distinct = [file.read_bytes() for file in sorted(files.iterdir())]
        data = list(islice(cycle(distinct), photos))
    return {
        "agreement": agreement(device, data[:16]),
        "stages": stages(device, seconds),
        "tiles": tiles(device, seconds),
        "decode": decoding(device, threads, data, seconds),
        "end_to_end": end_to_end(device, threads, data),
    }


def stages(device: str, seconds: float, sizes: tuple[int, ...] = FACE_BATCHES) -> list[Figures]:
    """Faces a second, from host memory to host memory, by precision, with and without graphs, and batch."""
    rows = []
    for precision in get_args(Precision)[1:]:
        for graphs in (False, True):
            filter = Filter.load("standard", device, precision=precision, graphs=graphs)
            rows += [_stages(filter, size, seconds, precision, graphs) for size in sizes]
    return rows


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
        "graphs_used": sum(batch.replay is not None for batch in runner._batches.values()) if runner else 0,
        "faces": size,
        "faces_per_s": per_s,
        "first_s": first_s,
        **{f"{stage}_percent": 100 * taken / whole for stage, taken in clock.seconds.items()},
    }


def tiles(device: str, seconds: float, sizes: tuple[int, ...] = TILE_BATCHES) -> list[Figures]:
    """The detector's tiles a second, pixels up and faces out, by shape and number given at once."""
    detector = CenterFace(device)
    random = np.random.default_rng(0)
    rows = []
    for height, width in TILES:
        tile = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        for size in sizes:
            per_s = rate(lambda given=[tile] * size: detector.find(given), size, seconds)  # type: ignore[misc]
            rows.append({"height": height, "width": width, "tiles": size, "tiles_per_s": per_s})
    return rows


def decoding(device: str, threads: int, data: list[bytes], seconds: float) -> list[Figures]:
    """JPEGs of a megapixel a second: by the worker's decoder in threads, and by nvJPEG, where torchvision has it."""
    some = data[: 4 * threads]
    with ThreadPoolExecutor(threads) as pool:
        by_threads = rate(lambda: list(pool.map(_decoded, some)), len(some), seconds)
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


def end_to_end(device: str, threads: int, data: list[bytes]) -> list[Figures]:
    """Photos a second from JPEG file to JPEG file, by precision: threads decode and encode, this one feeds the GPU."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{index:05}.jpg") for index in range(len(data))]
        for file, one in zip(files, data, strict=True):
            file.write_bytes(one)
        for precision in get_args(Precision)[1:]:
            filter = Filter.load("standard", device, precision=precision)
            _protect(files[:PHOTOS_TOGETHER], filter, threads)  # sets up what later batches use
            rows.append({"precision": precision, "threads": threads, **_protect(files, filter, threads)})
    return rows


def _protect(files: list[Path], filter: Filter, threads: int) -> Figures:
    clock = StageClock()
    faces = 0
    started = time.perf_counter()
    with busy_share() as busy, ThreadPoolExecutor(threads) as readers, ThreadPoolExecutor(threads) as writers:
        photos = readers.map(lambda file: _decoded(file.read_bytes()), files)
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
        "gpu_busy_percent": sum(busy) / len(busy) if busy else None,
        **{f"{stage}_percent": 100 * taken / seconds for stage, taken in clock.seconds.items()},
    }


def agreement(device: str, data: list[bytes]) -> list[Figures]:
    """How far the device's perturbations of real faces lie from torch's on the CPU
    (`apf.research.evaluate.devices`).
    """
    photos = [_decoded(one).pixels for one in data]
    reference = Filter.load(load_recipe("standard"))
    found = reference.detector.detect(photos)
    crops = [align(photo, alignment(face.landmarks)) for photo, own in zip(photos, found, strict=True) for face in own]
    faces = torch.from_numpy(np.stack(crops))
    return [
        {"precision": precision, "graphs": graphs, **asdict(one)}
        for precision in get_args(Precision)[1:]
        for graphs in (False, True)
        for one in differences(
            faces, Filter.load("standard", device, precision=precision, graphs=graphs), reference, (1, 8, len(faces))
        )
    ]


def rate(work: Callable[[], object], items: int, seconds: float) -> float:
    """Items a second: once to warm up, then again and again for so long, at least twice."""
    work()
    _wait()
    runs, started = 0, time.perf_counter()
    while runs < 2 or time.perf_counter() - started < seconds:
        work()
        runs += 1
    _wait()
    return runs * items / (time.perf_counter() - started)


@contextmanager
def busy_share() -> Iterator[list[float]]:
    """Samples of the percentage of time in which the GPU ran anything, as its driver says; none without nvidia-smi."""
    samples: list[float] = []
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=200"]
    try:
        watching = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        yield samples
        return
    try:
        yield samples
    finally:
        watching.terminate()
        lines, _ = watching.communicate()
        samples += [float(line) for line in lines.splitlines() if line.strip().isdigit()]


def _decoded(data: bytes):  # type: ignore[no-untyped-def]
    return decode(data, Limits(), keep_metadata=())


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(main())
