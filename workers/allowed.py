"""Where a worker may read and write, whatever a message says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from workers.errors import NotAllowed
from workers.store import canonical_url, inside
from workers.store.urls import file_path

EVERYTHING = "*"


def check_allowed(url: str, allowed: Sequence[str], *, what: str) -> None:
    """Raises NotAllowed where `url` lies under none of the allowed URLs; folders with their symbolic links resolved.

    Args:
        allowed: canonical URLs; `EVERYTHING` among them allows all.
        what: names the place in the error.
    """
    if EVERYTHING in allowed:
        return
    place = canonical_url(url)
    if not any(_lies_in(place, root) for root in allowed):
        raise NotAllowed(
            f"{what} {place} lies under none of APF_ALLOWED_URLS: add its bucket or folder there if it should"
        )


def _lies_in(place: str, root: str) -> bool:
    if not place.startswith("file:"):
        return inside(place, root)
    if not root.startswith("file:"):
        return False
    return Path(os.path.realpath(file_path(place))).is_relative_to(os.path.realpath(file_path(root)))
