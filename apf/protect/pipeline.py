"""Protect a photo: decode, detect, align, perturb, paste back, encode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from apf.attack.perturbation import Change
from apf.attack.protect_face import Hidden, Task
from apf.faces.alignment import Face, Float64, align, alignment
from apf.filters.load import PhotoFilter
from apf.photo import Limits, Photo, decode
from apf.protect.publish import Outcome, ProtectedPhoto, ProtectedPixels, pasted, published
from apf.recipe import Recipe
from apf.runtime.cores import side_by_side
from apf.runtime.stage_clock import StageClock

__all__ = [
    "HiddenFaces",
    "Outcome",
    "ProtectedPhoto",
    "ProtectedPixels",
    "hide_faces",
    "protect_batch",
    "protect_photo",
]


def protect_batch(
    photos: Sequence[Photo], filter: PhotoFilter, clock: StageClock | None = None, *, in_place: bool = False
) -> list[ProtectedPixels]:
    """Protect every face of every photo; the faces of all photos share the filter's batches.

    The result for a photo does not depend on the photos around it.

    Args:
        in_place: the photos themselves may be changed, and must not be used again, not even after an error.
    """
    clock = clock or StageClock()
    found = hide_faces(photos, filter, clock)
    with clock.stage("paste"):
        pairs = zip(photos, found, strict=True)
        return side_by_side(lambda pair: _pasted(*pair, filter.recipe, in_place=in_place), pairs)


@dataclass(frozen=True)
class HiddenFaces:
    """The faces of one photo, and what is done to each."""

    faces: tuple[Face, ...]
    #: (2, 3) each, photo pixels to template pixels.
    matrices: tuple[Float64, ...]
    hidden: tuple[Hidden, ...]


def hide_faces(photos: Sequence[Photo], filter: PhotoFilter, clock: StageClock | None = None) -> list[HiddenFaces]:
    """Find every face of every photo, and what is to be done to it; as `protect_batch`, but nothing is drawn yet."""
    clock = clock or StageClock()
    with clock.stage("detect"):
        found = filter.detector.detect([photo.pixels for photo in photos])
    with clock.stage("align"):
        matrices = [[alignment(face.landmarks) for face in faces] for faces in found]
    hidden = iter(_hidden(photos, matrices, filter, clock) if any(matrices) else [])
    return [
        HiddenFaces(tuple(faces), tuple(own), tuple(islice(hidden, len(own))))
        for faces, own in zip(found, matrices, strict=True)
    ]


def _hidden(
    photos: Sequence[Photo],
    matrices: Sequence[Sequence[Float64]],
    filter: PhotoFilter,
    clock: StageClock,
) -> list[Hidden]:
    """Return what is done to each face: the modules' answer, and the steps that go on from there."""
    places = [(photo, matrix) for photo, own in zip(photos, matrices, strict=True) for matrix in own]
    starts = _starts(places, filter, clock)
    tasks = [
        Task(photo.pixels, matrix, photo.grey, start) for (photo, matrix), start in zip(places, starts, strict=True)
    ]
    return filter.hide(tasks, clock)


def _starts(places: Sequence[tuple[Photo, Float64]], filter: PhotoFilter, clock: StageClock) -> Sequence[Change | None]:
    """Return the modules' answer for each face.

    Steps on several guides get along without it, and photos of a person stay further apart: half of it is universal.
    """
    if filter.recipe.steps and len(filter.recipe.guides) > 1:
        return [None] * len(places)
    with clock.stage("align"):
        crops = side_by_side(lambda place: align(place[0].pixels, place[1]), places)
    return filter.changes(crops, clock)


def _pasted(photo: Photo, own: HiddenFaces, recipe: Recipe, *, in_place: bool) -> ProtectedPixels:
    changes, verdicts = [one.change for one in own.hidden], [one.verdict for one in own.hidden]
    canvases = [one.canvas for one in own.hidden]
    return pasted(
        photo, own.faces, own.matrices, changes, recipe, verdicts=verdicts, canvases=canvases, in_place=in_place
    )


def protect_photo(data: bytes, filter: PhotoFilter, *, limits: Limits | None = None) -> ProtectedPhoto:
    """Protect one encoded photo.

    Args:
        data: a JPEG, PNG, WebP, HEIC, AVIF or TIFF; the same format comes out.
        limits: the largest photo to take, in bytes and pixels.

    Raises:
        PhotoError: the photo is corrupt, unsupported or too large; nothing comes out.
    """
    photo = decode(data, limits or Limits(), keep_metadata=filter.recipe.keep_metadata)
    return published(protect_batch([photo], filter, in_place=True)[0], filter.recipe, bytes_in=len(data))
