"""Metadata that outputs carry."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from workers.store.urls import file_path

#: Of which photo it is: see `source_mark`.
SOURCE = "apf-source"
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
    """Return whether an output was made of this version of its source, by this recipe; None: by any."""
    return metadata.get(SOURCE_ETAG) == etag and (recipe_id is None or metadata.get(RECIPE) == recipe_id)


def is_output(metadata: Mapping[str, str]) -> bool:
    """Return whether a worker wrote the object."""
    return SOURCE_ETAG in metadata and RECIPE in metadata


def source_mark(source: str, key: str) -> str:
    """Return a digest of a photo's place: where outputs are public, names of sources stay private."""
    return hashlib.sha256(photo_place(source, key).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def photo_place(source: str, key: str = "") -> str:
    """Where a photo lies, the same text wherever the source's canonical URL ends and the key begins."""
    root = (f"file://{file_path(source)}" if source.startswith("file:") else source).rstrip("/")
    return f"{root}/{key}" if key else root
