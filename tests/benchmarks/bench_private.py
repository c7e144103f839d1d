"""How long the device's part of private mode takes on one core, and how much the client and its files weigh.

    python -m tests.benchmarks.bench_private

Each figure is the median of several runs, in seconds of processor time; the parts are timed by themselves, on a
portrait of one face.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import io
import statistics
import time
from collections.abc import Callable

import numpy as np
from PIL import Image
from skimage.data import astronaut

from apf.detection.centerface_onnx import light_detector
from apf.faces.alignment import align, alignment
from apf.private.device import Device
from apf.private.files import Gradients, Perturbations
from apf.private.quantise import Reduction
from apf.recipe import load_recipe
from apf.stages.numpy_gradient import LightProbe
from tests.benchmarks.record import record, table

RUNS = 5
MEGAPIXELS = (1, 3, 12)


def seconds(work: Callable[[], object]) -> float:
    """The median over `RUNS`, after one to warm up."""
    work()
    taken = []
    for _ in range(RUNS):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return statistics.median(taken)


def portrait(megapixels: float) -> Image.Image:
    side = round((megapixels * 1e6) ** 0.5)
    return Image.fromarray(astronaut()).resize((side, side), Image.Resampling.BICUBIC)


def measured() -> dict[str, float]:
    recipe = load_recipe("standard")
    found: dict[str, float] = {}
    found["start: load the networks, s"] = seconds(lambda: Device(recipe, bytes(32)))
    detector, probe = light_detector(), LightProbe()
    for size in MEGAPIXELS:
        pixels = np.asarray(portrait(size))
        found[f"find the faces in {size} MP, s"] = seconds(lambda pixels=pixels: detector.detect([pixels]))
    pixels = np.asarray(portrait(1))
    (face,) = detector.detect([pixels])[0]
    crop = align(pixels, alignment(face.landmarks))
    found["gradient of a face, s"] = seconds(lambda: probe.gradient(crop, recipe.epsilon, recipe.stages))
    data = io.BytesIO()
    portrait(1).save(data, "JPEG", quality=92)
    device = Device(recipe, bytes(32))
    found["a JPEG of 1 MP with one face, whole, s"] = seconds(lambda: device.gradients(data.getvalue()))
    for reduction in (Reduction(8), Reduction(4), Reduction(1), Reduction(1, momentum=False)):
        sent = Device(recipe, bytes(32), reduction=reduction).gradients(data.getvalue())
        with_or_without = "with" if reduction.momentum else "without"
        found[f"gradient file, {reduction.bits} bits, {with_or_without} momentum, kB"] = len(sent.encode()) / 1e3
    found["perturbation file, kB"] = _answer_kb(sent)
    return found


def _answer_kb(sent: Gradients) -> float:
    return len(Perturbations(sent.id, sent.terms, np.zeros((sent.faces, 3, 112, 112), np.int8)).encode()) / 1e3


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    found = measured()
    print(f"{table([{'one core': name, '': value} for name, value in found.items()])}\n")
    record("private", found)


if __name__ == "__main__":
    main()
