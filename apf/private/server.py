"""The server's part: from a photo's gradients to its perturbations. Never sees a photo."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from apf.clock import StageClock
from apf.errors import PrivateFileError
from apf.filter import Filter
from apf.private.files import Gradients, Perturbations, Terms


def perturb(files: Sequence[Gradients], filter: Filter, clock: StageClock | None = None) -> list[Perturbations]:
    """The answer to each file; the faces of all files share the filter's batches.

    What is answered to a file does not depend on the files around it.

    Raises:
        PrivateFileError: a file was made for another recipe than the filter's; `check_terms` tells which.
    """
    for file in files:
        check_terms(file, filter)
    if not files:
        return []
    gradients = torch.from_numpy(np.concatenate([file.values() for file in files]))
    deltas = filter.perturbation_from(gradients, clock).cpu()
    parts = torch.split(deltas, [file.faces for file in files])
    return [Perturbations.of(file, part.numpy()) for file, part in zip(files, parts, strict=True)]


def check_terms(file: Gradients, filter: Filter) -> None:
    """Raises PrivateFileError where the file was made for another recipe than the filter's."""
    difference = file.terms.difference(Terms.of(filter.recipe))
    if difference:
        raise PrivateFileError(
            f"the gradients were made for {difference}: use the same recipe and the same version on both sides"
        )
    if "gradient" not in file.terms.stages:
        raise PrivateFileError("a recipe without the gradient stage has no private mode: it sends nothing of a photo")
