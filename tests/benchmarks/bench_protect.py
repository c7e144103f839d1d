"""`python tests/benchmarks/bench_protect.py`: seconds a photo, photos a second, peak memory and where the time goes.

Real faces (InsightFace's t1.jpg, six of them, and scikit-image's astronaut) enlarged to 1 and 12 megapixels, JPEG 90,
through `apf protect` between two folders with the worker inside; the start of the command and the loading of the models
are timed apart by a run over one photo.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import insightface
import skimage.data
from PIL import Image

STAGES = ("read", "decode", "detect", "align", "gradient", "transfer", "universal", "paste", "encode", "write")
SIZES = {1: 24, 12: 8}


def main() -> None:
    print(f"{platform.machine()}, {os.cpu_count()} cores, {cpu_name()}, Python {platform.python_version()}")
    print("| photos | s/photo | photos/s | start, s | peak memory, MB | " + " | ".join(STAGES) + " |")
    print("|" + " --- |" * (len(STAGES) + 5))
    for megapixels, count in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            print(row(megapixels, count, Path(folder)), flush=True)


def row(megapixels: int, count: int, folder: Path) -> str:
    """One line of the table, in shares of the stages' summed thread seconds."""
    sources = folder / "in"
    make_photos(sources, megapixels, count + 1)
    one = folder / "one"
    one.mkdir()
    next(sources.iterdir()).rename(one / "first.jpg")
    start_s, _ = protect(one, folder / "one-out")
    total_s, result = protect(sources, folder / "out")
    per_photo = (total_s - start_s) / (count - 1)
    seconds = result["stage_seconds"]
    shares = [f"{100 * seconds.get(stage, 0) / sum(seconds.values()):.1f} %" for stage in STAGES]
    peak = result["peak_memory_bytes"] / 2**20
    cells = [f"{count} of {megapixels} MP, {result['faces']} faces", f"{per_photo:.2f}", f"{1 / per_photo:.2f}"]
    return "| " + " | ".join([*cells, f"{start_s - per_photo:.1f}", f"{peak:.0f}", *shares]) + " |"


def make_photos(folder: Path, megapixels: int, count: int) -> None:
    folder.mkdir()
    six = Image.open(Path(insightface.__file__).parent / "data" / "images" / "t1.jpg")
    for index in range(count):
        source = six if index % 2 else Image.fromarray(skimage.data.astronaut())
        scale = (megapixels * 1e6 / (source.width * source.height)) ** 0.5
        size = (round(source.width * scale), round(source.height * scale))
        # Every photo is its own, so that nothing is cached between them.
        source.resize(size).rotate(index / 10).save(folder / f"{index:03}.jpg", quality=90)


def protect(source: Path, destination: Path) -> tuple[float, dict[str, Any]]:
    start = time.perf_counter()
    command = [sys.executable, "-m", "producer", "protect", str(source), str(destination), "--json"]
    ended = subprocess.run(command, check=True, capture_output=True, text=True)
    return time.perf_counter() - start, json.loads(ended.stdout)


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown processor")


if __name__ == "__main__":
    main()
