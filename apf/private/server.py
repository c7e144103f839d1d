"""The server's side: from a photo's gradients to its perturbations. Never sees a photo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from apf.errors import PrivateFileError
from apf.faces.alignment import CROP
from apf.filters.load import PhotoFilter
from apf.private.files import Gradients, Perturbations, Terms
from apf.runtime.stage_clock import StageClock

#: Faces whose gradients are floats at once, half a megabyte each: what bounds memory, however many a file holds.
FACES_AT_ONCE = 128


def perturb(files: Sequence[Gradients], filter: PhotoFilter, clock: StageClock | None = None) -> list[Perturbations]:
    """Return the answer to each file; the faces of all files share the filter's batches.

    What is answered to a file does not depend on the files around it.

    Raises:
        PrivateFileError: a file was made for another recipe than the filter's; `check_terms` tells which.
    """
    for file in files:
        check_terms(file, filter)
    if not files:
        return []
    units = np.empty((sum(file.faces for file in files), 3, CROP, CROP), np.int8)
    for start in range(0, len(units), FACES_AT_ONCE):
        some = _faces(files, start, start + FACES_AT_ONCE)
        deltas = filter.perturb_from(np.concatenate([part.values() for part in some]), clock)
        units[start : start + len(deltas)] = Perturbations.of(some[0], deltas).units  # the terms of all are the same
    parts = np.split(units, np.cumsum([file.faces for file in files])[:-1])
    return [Perturbations(file.id, file.terms, own) for file, own in zip(files, parts, strict=True)]


def _faces(files: Sequence[Gradients], start: int, stop: int) -> list[Gradients]:
    """Return the faces from `start` to `stop`, counted through all files; none is empty."""
    found, first = [], 0
    for file in files:
        own = file.packed[max(0, start - first) : max(0, stop - first)]
        found += [replace(file, packed=own)] if len(own) else []
        first += file.faces
    return found


def check_terms(file: Gradients, filter: PhotoFilter) -> None:
    """Raise PrivateFileError where the file was made for another recipe than the filter's."""
    difference = file.terms.difference(Terms.of(filter.recipe))
    if difference:
        raise PrivateFileError(
            f"the gradients were made for {difference}: use the same recipe and the same version on both sides"
        )
    if "gradient" not in file.terms.stages:
        raise PrivateFileError("a recipe without the gradient stage has no private mode: it sends nothing of a photo")
