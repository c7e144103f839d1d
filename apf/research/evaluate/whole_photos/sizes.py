"""Whole photos by size of the face: each photo is brought to it, protected there, and its face found anew."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from pydantic import BaseModel, ConfigDict
from torch import Tensor
from tqdm import tqdm

from apf.research.evaluate.photos import PhotoBench
from apf.research.evaluate.whole_photos.boxes import box_side
from apf.research.evaluate.whole_photos.conditions import CONDITIONS
from apf.research.evaluate.whole_photos.judge import Verdict
from apf.research.evaluate.whole_photos.protectors import Ready
from apf.research.evaluate.whole_photos.resized import as_jpeg, resized_to
from apf.research.evaluate.whole_photos.subjects import decoded
from apf.research.evaluate.whole_photos.trials import crops_of, nearest

#: Sides of the face's box (geometric mean of width and height) to which the photos are brought, in pixels.
FACE_SIZES = (40, 80, 160, 320, 640, 1000)
PUBLISHED = {"published": CONDITIONS["published"]}


class SizeRow(BaseModel):
    """The photos brought to one size of the face: unprotected and protected."""

    model_config = ConfigDict(frozen=True)

    face_px: int
    #: Median side of the box that is found in them, unprotected; None where none is found.
    found_px: float | None
    photos: int
    #: How many had to be enlarged, and so have no more detail than their source.
    upscaled: int
    #: Photos whose face is not found once it is protected, and those where it is not even found unprotected.
    lost: int
    lost_clean: int
    clean: Verdict | None
    protected: Verdict | None


def size_rows(bench: PhotoBench, ready: Ready, sizes: Sequence[int] = FACE_SIZES) -> list[SizeRow]:
    """Return a row for each size, with means over the recognisers that the method did not climb on."""
    return [_row(bench, ready, size) for size in tqdm(sizes, desc="sizes of the face", unit="size")]


def _row(bench: PhotoBench, ready: Ready, size: int) -> SizeRow:
    clean: list[Tensor | None] = []
    protected: list[Tensor | None] = []
    sides: list[float] = []
    enlarged = 0
    for index, subject in enumerate(bench.subjects):
        if index not in bench.protected:
            clean.append(None)
            protected.append(None)
            continue
        resized, near, upscaled = resized_to(decoded(subject.path).pixels, subject.box, size)
        photo = as_jpeg(resized)
        enlarged += upscaled
        face = nearest(bench.detector.detect([photo.pixels])[0], near)
        sides += [box_side(face.box)] if face else []
        pictures = photo.pixels, ready.protect(photo).published
        before, after = (crops_of(one, near, PUBLISHED, bench.detector)["published"] for one in pictures)
        clean.append(before)
        protected.append(after if before is not None else None)
    missing = len(bench.protected) - len(sides)
    return SizeRow(
        face_px=size,
        found_px=median(sides) if sides else None,
        photos=len(bench.protected),
        upscaled=enlarged,
        lost=sum(crop is None for crop in protected) - sum(crop is None for crop in clean),
        lost_clean=missing,
        clean=_mean(bench, ready, clean),
        protected=_mean(bench, ready, protected),
    )


def _mean(bench: PhotoBench, ready: Ready, crops: Sequence[Tensor | None]) -> Verdict | None:
    found = bench.judge.verdicts(crops)
    return Verdict.mean([verdict for name, verdict in found.items() if name not in ready.guides])
