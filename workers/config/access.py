"""Access policy: the URLs that a worker may read and write, whatever a message says."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from workers.errors import BadCredentials, NotAllowed, NotFound, SettingsError, WorkerError
from workers.store import S3Options, canonical_url, inside, open_store
from workers.store.urls import file_path

log = logging.getLogger(__name__)

EVERYTHING = "*"


def check_allowed(url: str, allowed: Sequence[str], *, what: str) -> None:
    """Raise NotAllowed where `url` lies under none of the allowed URLs; folders with their symbolic links resolved.

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


def check_reachable(urls: Iterable[str], s3: S3Options) -> None:
    """Raise for what keeps a worker from every photo: a place of its own that is missing, or credentials that nobody
    knows.

    Such a worker would take messages from those that can work on them. A store that is down is waited for instead, and
    a place that may not be listed may be readable all the same: both are logged.

    Raises:
        SettingsError: it names the place and the cure.
    """
    for url in urls:
        if url == EVERYTHING:
            continue
        try:
            next(open_store(url, s3=s3).list(), None)
        except (BadCredentials, NotFound) as error:
            # The producer makes a folder for its output, but workers may well be started first.
            make = ", or make it" if isinstance(error, NotFound) and url.startswith("file:") else ""
            raise SettingsError(f"this worker cannot work: {error}{make}") from error
        except WorkerError as error:
            log.warning("this worker may not be able to work: %s", error)


def _lies_in(place: str, root: str) -> bool:
    if not place.startswith("file:"):
        return inside(place, root)
    if not root.startswith("file:"):
        return False
    return Path(os.path.realpath(file_path(place))).is_relative_to(os.path.realpath(file_path(root)))
