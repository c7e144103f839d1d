"""What a photo costs, part by part, each by every way known here: the quickest way of each is what has to be paid.

Every part is a plain call of the library, or of a kept one, alone: no queue, no report, no copy that could be spared.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from apf.attack.bound import Bound
from apf.attack.canvas import MARGIN
from apf.attack.gradient_steps import climb, identity, seen_by, start_climb
from apf.attack.jury import verdict
from apf.attack.paste import paste
from apf.attack.perturbation import KNOTS, Change
from apf.detection.tiling import FINE_PIXELS
from apf.faces.alignment import CROP, Float64, UInt8, align, alignment
from apf.faces.geometry import bounds_of, clipped, scale_of
from apf.filters.load import PhotoFilter
from apf.photo import Photo, decode, encode
from apf.photo.jpeg import tables_for

#: All faces of a photo are of one size: so many of them are measured, and stand for the others.
MOST_FACES = 2

#: The ways to do one part, by name; a call does the whole of it for one photo.
Ways = Mapping[str, Callable[[], object]]


@dataclass(frozen=True)
class Sample:
    """A photo with all that its parts start from."""

    data: bytes
    photo: Photo
    matrices: Sequence[Float64]
    #: Of random signs: what pasting costs does not depend on them.
    changes: Sequence[Change]
    allowed: Bound

    @classmethod
    def of(cls, data: bytes, filter: PhotoFilter, faces: int) -> Sample:
        """A JPEG of quality 90; raises ValueError where the detector finds another number of faces than was said."""
        photo = decode(data)
        found = filter.detector.detect([photo.pixels])[0]
        if len(found) != faces:
            raise ValueError(f"the detector finds {len(found)} faces in a photo that was made with {faces}")
        rng, signs = np.random.default_rng(0), np.array([-1, 1], np.float32)
        shapes = (3, CROP, CROP), (2, KNOTS, KNOTS)
        changes = [Change(*(rng.choice(signs, shape) for shape in shapes)) for _ in found]
        return cls(data, photo, [alignment(face.landmarks) for face in found], changes, Bound.of(filter.recipe))


def parts(sample: Sample, filter: PhotoFilter, folder: Path) -> dict[str, Ways]:
    """Every part of a photo but `of_faces`; files are read and written in the folder."""
    data, photo, pixels = sample.data, sample.photo, sample.photo.pixels
    source, output, encoded = folder / "in.jpg", folder / "out.jpg", encode(photo, pixels)
    source.write_bytes(data)
    small = reduced_decode(data)
    found: dict[str, Ways] = {
        "read": {"a file": source.read_bytes},
        "decode": {
            "Pillow": lambda: np.asarray(Image.open(io.BytesIO(data))),
            "OpenCV": lambda: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB),
            "apf.photo": lambda: decode(data),
        },
        "detect": {"apf": lambda: filter.detector.detect([pixels])},
        "encode": {
            "Pillow": lambda: pillow_encode(photo, pixels),
            "OpenCV": lambda: opencv_encode(pixels),
            "apf.photo": lambda: encode(photo, pixels),
        },
        "write": {"a file": lambda: write(output, encoded)},
    }
    if small.size < pixels.size:
        found["decode reduced"] = {"Pillow": lambda: reduced_decode(data)}
        found["detect reduced"] = {"apf": lambda: filter.detector.detect([small])}
    if sample.matrices:
        scratch = pixels.copy()
        found["align"] = {"apf": lambda: [align(pixels, matrix) for matrix in sample.matrices]}
        found["paste"] = {
            "onto a copy": lambda: paste(pixels, sample.changes, sample.matrices, sample.allowed),
            "in place": lambda: paste_in_place(scratch, sample),
        }
    return found


def of_faces(sample: Sample, filter: PhotoFilter) -> dict[str, Callable[[], object]]:
    """What a few of the photo's faces take, as the recipe has it: modules, start, steps, the jury's verdict."""
    recipe, guides = filter.recipe, filter.guides
    photo, matrices, allowed = sample.photo, sample.matrices[:MOST_FACES], sample.allowed
    if not matrices:
        return {}
    found: dict[str, Callable[[], object]] = {}
    if not recipe.steps or len(recipe.guides) == 1:
        crops = [align(photo.pixels, matrix) for matrix in matrices]
        found["modules"] = lambda: filter.changes(crops)
    if not recipe.steps:
        return found
    faces = [start_climb(photo.pixels, matrix, guides.climbed, allowed) for matrix in matrices]
    jury = guides.jury or guides.climbed
    whole = [seen_by(face.canvas.pixels.astype(np.float32), face.canvas.matrix) for face in faces]
    known = [[identity(juror, crop) for juror in jury] for crop in whole]
    return found | {
        "start": lambda: [start_climb(photo.pixels, matrix, guides.climbed, allowed) for matrix in matrices],
        "steps": lambda: [climb(face, guides.climbed, recipe.steps) for face in faces],
        "jury": lambda: [
            verdict(face, jury, own, independent=bool(guides.jury)) for face, own in zip(faces, known, strict=True)
        ],
    }


def reduced_decode(data: bytes) -> UInt8:
    """The JPEG by DCT scaling (1/2, 1/4 or 1/8), no smaller than what detection looks at: (h, w, 3) uint8 RGB."""
    with Image.open(io.BytesIO(data)) as image:
        scale = min(1.0, (FINE_PIXELS / (image.width * image.height)) ** 0.5)
        # Half a pixel less, as FINE_PIXELS is no whole number of rows.
        image.draft("RGB", (int(image.width * scale), int(image.height * scale)))
        return np.asarray(image)


def paste_in_place(pixels: UInt8, sample: Sample) -> None:
    """As `paste` but for rounding, each face by itself into the photo that is given: no copy of the photo is made."""
    for change, matrix in zip(sample.changes, sample.matrices, strict=True):
        # All that pasting looks at.
        margin = math.ceil(MARGIN / scale_of(matrix))
        left, top, right, bottom = clipped(bounds_of(matrix, margin), pixels.shape)
        moved = matrix.copy()
        moved[:, 2] += matrix[:, :2] @ (left, top)
        region = pixels[top:bottom, left:right]
        paste(region, [change], [moved], sample.allowed, in_place=True)


def pillow_encode(photo: Photo, pixels: UInt8) -> bytes:
    """With the tables, sampling and optimised codes that ours has, by Pillow alone."""
    coding = photo.coding.jpeg
    if coding is None:
        raise TypeError("only JPEGs are measured")
    buffer = io.BytesIO()
    tables = tables_for(coding, grey=False, floor_quality=75)
    Image.fromarray(pixels).save(buffer, "JPEG", qtables=tables, subsampling=coding.subsampling, optimize=True)
    return buffer.getvalue()


def opencv_encode(pixels: UInt8) -> bytes:
    """The same by OpenCV, which knows no tables but those of a quality: our photos are of 90, in 4:2:0."""
    options = [cv2.IMWRITE_JPEG_QUALITY, 90, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise ValueError("OpenCV wrote no JPEG")
    return data.tobytes()


def write(path: Path, data: bytes) -> None:
    """Under another name at first, so that nobody sees half of it. Waiting for the disk is no work: others go on."""
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(data)
    temporary.replace(path)
