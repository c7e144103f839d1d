"""Preview recipes on the first face of a user's own photos, before a batch is made. Brings image libraries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import islice

import cv2
import numpy as np

from apf.detection.detector import Detector, load_detector
from apf.errors import PhotoError
from apf.faces.alignment import Box, UInt8
from apf.filters.load import PhotoFilter, load_filter
from apf.photo import Photo
from apf.protect.pipeline import protect_batch
from apf.recipe import load_recipe
from workers.config.settings import Settings
from workers.errors import StoreError
from workers.execution.engine import photo_limits, placement, shared_decoder
from workers.report import thumbnails
from workers.store import open_store
from workers.store.media_types import may_be_photo

#: Photos that are looked through for a face, and the side in pixels from which on one is worth looking at.
LOOKED_THROUGH, LARGE_PX = 40, 60
#: How far beyond a face's box the filter sees, and the picture shows, in sides of the box.
AROUND, SHOWN = 1.0, 0.3
#: Long side of a picture, in pixels.
PICTURE_PX = 640


@dataclass(frozen=True)
class FacePreview:
    """A face, as it is or under a recipe."""

    #: Empty for the original.
    recipe: str
    #: A JPEG.
    picture: bytes


def face_previews(source: str, recipes: Sequence[str], settings: Settings) -> Iterator[FacePreview]:
    """Yield the first face of the photos in a folder as it is, then under each recipe; nothing where none has a face.

    Raises:
        StoreError: the folder cannot be read.
        ApfError: a recipe, its detector or its guides cannot be loaded.
    """
    detector = load_detector(settings.detector or "centerface")
    found = _first_face(source, detector, settings)
    if found is None:
        return
    photo, box = found
    inner = _around(box, AROUND, photo.pixels)
    near = replace(photo, pixels=np.ascontiguousarray(_cut(photo.pixels, inner)), alpha=None)
    left, top = inner[:2]
    shown = _around((box[0] - left, box[1] - top, box[2] - left, box[3] - top), SHOWN, near.pixels)
    yield FacePreview("", _picture(near.pixels, shown, photo))
    for one in _filters(recipes, settings):
        (result,) = protect_batch([near], one)
        yield FacePreview(one.recipe.name, _picture(result.pixels, shown, photo))


def _filters(recipes: Sequence[str], settings: Settings) -> Iterator[PhotoFilter]:
    """Yield a filter for each recipe; on a CPU they share their networks, which are a gigabyte."""
    first: PhotoFilter | None = None
    for name in recipes:
        recipe = load_recipe(name, detector=settings.detector)
        if first is None or first.batched or first.recipe.guide_digests != recipe.guide_digests:
            first = load_filter(recipe, **placement(settings))
            _ = first.guides
            yield first
        else:
            other = copy(first)
            other.recipe = recipe
            yield other


def _first_face(source: str, detector: Detector, settings: Settings) -> tuple[Photo, Box] | None:
    """Return the largest face of the first photo that has a large one; else the largest of all that were looked at."""
    store, decoder = open_store(source, s3=settings.s3), shared_decoder(settings)
    limits = photo_limits(settings)
    best: tuple[Photo, Box] | None = None
    for info in islice((info for info in store.list() if may_be_photo(info)), LOOKED_THROUGH):
        try:
            data = store.get(info.key, max_bytes=limits.max_bytes).data
            photo = decoder.decode(data, limits, ())
        except (PhotoError, StoreError, MemoryError):
            continue  # the batch says what is wrong with it
        for face in detector.detect([photo.pixels])[0]:
            if best is None or _side(face.box) > _side(best[1]):
                best = photo, face.box
        if best and _side(best[1]) >= LARGE_PX:
            return best
    return best


def _side(box: Box) -> float:
    return float(min(box[2] - box[0], box[3] - box[1]))


def _around(box: Box, more: float, pixels: UInt8) -> tuple[int, int, int, int]:
    height, width = pixels.shape[:2]
    reach = more * max(box[2] - box[0], box[3] - box[1])
    left, top = max(0, round(box[0] - reach)), max(0, round(box[1] - reach))
    return left, top, min(width, round(box[2] + reach)), min(height, round(box[3] + reach))


def _cut(pixels: UInt8, rect: tuple[int, int, int, int]) -> UInt8:
    return pixels[rect[1] : rect[3], rect[0] : rect[2]]


def _picture(pixels: UInt8, rect: tuple[int, int, int, int], photo: Photo) -> bytes:
    """Return a part as a JPEG of one size, so that small faces can be looked at, too."""
    part = _cut(pixels, rect)
    scale = PICTURE_PX / max(part.shape[:2])
    size = max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return thumbnails.view(np.asarray(cv2.resize(part, size, interpolation=how), np.uint8), replace(photo, alpha=None))
