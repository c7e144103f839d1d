"""What an output says of itself, in its metadata."""

from __future__ import annotations

from collections.abc import Mapping

SOURCE_ETAG, RECIPE, BATCH, OUTCOME, FACES, WEAK = (
    "apf-source-etag",
    "apf-recipe",
    "apf-batch",
    "apf-outcome",
    "apf-faces",
    "apf-weak",
)


def weak_faces(metadata: Mapping[str, str]) -> int:
    """How many of its faces a juror still knows; raises ValueError where no worker wrote the mark."""
    return int(metadata.get(WEAK, "0"))


def carries(metadata: Mapping[str, str], etag: str, recipe_id: str | None) -> bool:
    """Whether an output was made of this version of its source, by this recipe; None: by any."""
    return metadata.get(SOURCE_ETAG) == etag and (recipe_id is None or metadata.get(RECIPE) == recipe_id)
