"""`python -m tests.benchmarks.bench_protect`: seconds a photo, photos a second, peak memory and where the time goes.

Real faces (InsightFace's t1.jpg, six of them, and scikit-image's astronaut) enlarged to 1, 12 and 48 megapixels, JPEG
90, through `apf protect` between two folders with the worker inside; the start of the command and the loading of the
models are timed apart by a run over one photo.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import insightface
import skimage.data
from PIL import Image

from tests.benchmarks.record import record, table

STAGES = ("read", "decode", "detect", "align", "gradient", "transfer", "universal", "steps", "paste", "encode", "write")
SIZES = {1: 24, 12: 8, 48: 6}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="four small photos")
    sizes = {1: 4} if parser.parse_args(arguments).short else SIZES
    rows = []
    for megapixels, count in sizes.items():
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measured(megapixels, count, Path(folder)))
    print(f"{table([row(found) for found in rows])}\n")
    record("protect", {f"{found['megapixels']}mp": found for found in rows})


def measured(megapixels: int, count: int, folder: Path) -> dict[str, Any]:
    sources = folder / "in"
    make_photos(sources, megapixels, count + 1)
    one = folder / "one"
    one.mkdir()
    next(sources.iterdir()).rename(one / "first.jpg")
    start_s, _ = protect(one, folder / "one-out")
    total_s, result = protect(sources, folder / "out")
    photo_s = (total_s - start_s) / (count - 1)
    return {
        "megapixels": megapixels,
        "photos": count,
        "faces": result["faces"],
        "photo_s": photo_s,
        "photos_per_s": 1 / photo_s,
        "start_s": start_s - photo_s,
        "peak_memory_mb": result["peak_memory_bytes"] / 2**20,
        "stage_s": result["stage_seconds"],
    }


def row(found: dict[str, Any]) -> dict[str, object]:
    """One line of the table; the stages as shares of their summed thread seconds."""
    seconds = found["stage_s"]
    return {
        "photos": f"{found['photos']} of {found['megapixels']} MP, {found['faces']} faces",
        "s/photo": found["photo_s"],
        "photos/s": found["photos_per_s"],
        "start, s": found["start_s"],
        "peak memory, MB": found["peak_memory_mb"],
        **{stage: f"{100 * seconds.get(stage, 0) / sum(seconds.values()):.1f} %" for stage in STAGES},
    }


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


if __name__ == "__main__":
    main()
