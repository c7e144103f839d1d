"""The cost and the recall of a detector, the default one if none is named: `python -m tests.benchmarks.bench_detector`.

Core seconds a megapixel, on one core, of the photos that other benchmarks measure with (`tests.benchmarks.photos`). And
recall: six real faces (InsightFace's t1.jpg) of known heights, turned, on a photo without faces (scikit-image's coffee,
enlarged), with the names of the missed ones in the JSON.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from statistics import median

import cv2
import numpy as np
from skimage.data import coffee

from apf.detection.detector import Detector, load_detector
from apf.faces.alignment import Face, UInt8
from apf.photo import decode
from apf.runtime.cores import use_cores
from tests.benchmarks.photos import FACE_HEIGHT, cutouts, jpeg, lay, six
from tests.benchmarks.record import record, table

HEIGHTS = (16, 20, 24, 28, 32, 40, 48, 64, 96, 128, 200)
ANGLES = (0, 45, 90, 135, 180)
MEGAPIXELS = (1, 4, 12)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="the smallest photo alone")
    parser.add_argument("--detector", default="centerface", help="yunet, or an InsightFace pack")
    asked = parser.parse_args(arguments)
    megapixels = MEGAPIXELS[:1] if asked.short else MEGAPIXELS
    use_cores(1)
    detector = load_detector(asked.detector)
    costs = [cost(detector, size, faces) for size in megapixels for faces in (0, *FACE_HEIGHT)]
    print(f"{table(costs)}\n")
    faces = cutouts(load_detector("centerface"), six())
    recalls = {size: recall(detector, faces, size) for size in megapixels}
    for size, missed in recalls.items():
        rows = [
            {"face, px": h} | {f"of {len(faces)} at {a} degrees": len(faces) - len(missed[h, a]) for a in ANGLES}
            for h in HEIGHTS
        ]
        print(f"{size} megapixels\n\n{table(rows)}\n")
    missed = {f"{s} MP": {f"{h} px, {a} deg": m for (h, a), m in all_.items() if m} for s, all_ in recalls.items()}
    record("detector", {"detector": asked.detector, "cost": costs, "faces": len(faces), "missed": missed})


def cost(detector: Detector, megapixels: float, faces: int, turns: int = 5) -> dict[str, float]:
    """Core seconds a megapixel of a photo, all that detection does counted."""
    pixels = decode(jpeg(megapixels, faces)).pixels
    seconds = []
    for _ in range(turns):
        start = time.process_time()
        detector.detect([pixels])
        seconds.append((time.process_time() - start) / megapixels)
    ends = {"from": min(seconds), "to": max(seconds)}
    return {"megapixels": megapixels, "faces": faces, "core s a megapixel": median(seconds), **ends}


def recall(detector: Detector, faces: Sequence[UInt8], megapixels: float) -> dict[tuple[int, int], list[int]]:
    """By height and angle, which of six faces are missed."""
    missed = {}
    for height in HEIGHTS:
        for angle in ANGLES:
            photo, middles = laid_out(faces, height, angle, megapixels)
            [found] = detector.detect([photo])
            missed[height, angle] = [
                i for i, middle in enumerate(middles) if not any(shows(face, middle, height) for face in found)
            ]
    return missed


def laid_out(
    faces: Sequence[UInt8], height: int, angle: float, megapixels: float
) -> tuple[UInt8, list[tuple[int, int]]]:
    """A photo in 3:2 with the faces in two rows, of this height and turned by so many degrees; and their middles."""
    width = round((megapixels * 1.5e6) ** 0.5)
    photo = cv2.resize(coffee(), (width, round(width / 1.5)), interpolation=cv2.INTER_CUBIC)
    middles = []
    for number, face in enumerate(faces):
        row, column = divmod(number, -(-len(faces) // 2))
        x, y = round((column + 0.5) * width / (-(-len(faces) // 2))), round((row + 0.5) * len(photo) / 2)
        lay(turned(face, angle), photo, x, y, 2 * height)
        middles.append((x, y))
    return photo, middles


def turned(face: UInt8, angle: float) -> UInt8:
    """A cut-out turned around its middle; beyond its edges its last pixels are repeated."""
    middle = ((face.shape[1] - 1) / 2, (face.shape[0] - 1) / 2)
    matrix = cv2.getRotationMatrix2D(middle, angle, 1)
    return np.asarray(cv2.warpAffine(face, matrix, face.shape[1::-1], borderMode=cv2.BORDER_REPLICATE), np.uint8)


def shows(face: Face, middle: tuple[float, float], height: int) -> bool:
    """Whether a detection is the face laid there: at its place, and neither half nor twice its height."""
    x1, y1, x2, y2 = face.box
    return x1 < middle[0] < x2 and y1 < middle[1] < y2 and height / 2 < y2 - y1 < height * 2


if __name__ == "__main__":
    main()
