"""Down to how many pixels the default detector finds faces: `python -m tests.benchmarks.bench_detector`.

Six real faces (InsightFace's t1.jpg) are reduced to known heights and laid onto a photo without faces (scikit-image's
coffee), enlarged to 1 and 12 megapixels. Prints, for each height, how many are found, and false faces and seconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import cv2
from skimage.data import coffee

from apf.detection.detector import Detector, load_detector
from apf.faces.alignment import Face, UInt8
from tests.benchmarks.photos import cutouts, six
from tests.benchmarks.record import record, table

HEIGHTS = (8, 10, 12, 16, 20, 24, 28, 32, 40, 48, 64, 96)
SIZES = ((1224, 816), (4243, 2829))  # 1 and 12 megapixels, as width and height


def laid_out(faces: list[UInt8], heights: tuple[int, ...], size: tuple[int, int]) -> tuple[UInt8, dict]:
    """A photo with each face at each height; and the faces' middles by height."""
    photo = cv2.resize(coffee(), size, interpolation=cv2.INTER_CUBIC)
    middles: dict[int, list[tuple[float, float]]] = {height: [] for height in heights}
    for row, height in enumerate(heights):
        for column, face in enumerate(faces):
            side = 2 * height
            x = round((column + 0.5) * size[0] / len(faces) - side / 2)
            y = round((row + 0.5) * size[1] / len(heights) - side / 2)
            photo[y : y + side, x : x + side] = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
            middles[height].append((x + side / 2, y + side / 2))
    return photo, middles


def shows(face: Face, middle: tuple[float, float], height: int) -> bool:
    """Whether a detection is the face laid there: at its place, and neither half nor twice its height."""
    x1, y1, x2, y2 = face.box
    return x1 < middle[0] < x2 and y1 < middle[1] < y2 and height / 2 < y2 - y1 < height * 2


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="the smallest photo alone")
    sizes = SIZES[:1] if parser.parse_args(arguments).short else SIZES
    detector = load_detector("centerface")
    faces = cutouts(detector, six())
    found, figures = {}, {}
    for size in sizes:
        found[size], seconds, false = at_size(detector, faces, size)
        print(f"{size[0]} x {size[1]}: {min(seconds):.2f} s a photo, {false} other detections")
        by_height = {str(height): found[size][height] for height in HEIGHTS}
        name = f"{size[0]}x{size[1]}"
        figures[name] = {"photo_s": min(seconds), "false": false, "faces": len(faces), "found_by_height_px": by_height}
    rows = [{"face, px": h, **{f"of {len(faces)} at {w} x {v}": found[w, v][h] for w, v in sizes}} for h in HEIGHTS]
    print(f"\n{table(rows)}\n")
    record("detector", figures)


def at_size(detector: Detector, faces: list[UInt8], size: tuple[int, int]) -> tuple[dict[int, int], list[float], int]:
    """Faces found by height, seconds of each of three photos (so that neighbours do not touch), and false faces."""
    found, seconds, false = {}, [], 0
    for heights in (HEIGHTS[::3], HEIGHTS[1::3], HEIGHTS[2::3]):
        photo, middles = laid_out(faces, heights, size)
        start = time.perf_counter()
        [detected] = detector.detect([photo])
        seconds.append(time.perf_counter() - start)
        hits = [(m, h) for h in heights for m in middles[h]]
        false += sum(not any(shows(face, *hit) for hit in hits) for face in detected)
        found |= {h: sum(any(shows(face, m, h) for face in detected) for m in middles[h]) for h in heights}
    return found, seconds, false


if __name__ == "__main__":
    main()
