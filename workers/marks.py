"""What an output says of itself, in its metadata."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from workers.store.urls import file_path

#: Of which photo it is: see `source_mark`.
SOURCE = "apf-source"
SOURCE_ETAG, RECIPE, BATCH, OUTCOME, FACES = (
    "apf-source-etag",
    "apf-recipe",
    "apf-batch",
    "apf-outcome",
    "apf-faces",
)


def carries(metadata: Mapping[str, str], etag: str, recipe_id: str | None) -> bool:
    """Whether an output was made of this version of its source, by this recipe; None: by any."""
    return metadata.get(SOURCE_ETAG) == etag and (recipe_id is None or metadata.get(RECIPE) == recipe_id)


def is_output(metadata: Mapping[str, str]) -> bool:
    """Whether a worker wrote the object."""
    return SOURCE_ETAG in metadata and RECIPE in metadata


def source_mark(source: str, key: str) -> str:
    """A digest of a photo's place, the same wherever the source's URL ends and the key begins: names stay private."""
    root = f"file://{file_path(source)}" if source.startswith("file:") else source
    return hashlib.sha256(f"{root.rstrip('/')}/{key}".encode("utf-8", "surrogateescape")).hexdigest()[:32]
