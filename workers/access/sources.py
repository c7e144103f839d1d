"""Validate a source before anything is written: a folder or prefix of originals, or one photo."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from workers.config.access import check_allowed
from workers.config.settings import Settings
from workers.core.records import Batch, PhotoRef
from workers.errors import BadRequest, Forbidden, IsOutput, NotFound, StoreError, StoreGone, WorkerError
from workers.ledger.batch_ledger import Ledger, open_ledger
from workers.store import RESERVED, LeftOut, ObjectInfo, Store, canonical_url, open_store, overlap, parent_url
from workers.store.media_types import GRADIENT_SUFFIX, has_photos_suffix, is_taken, suffix
from workers.store.output_metadata import BATCH, is_output, photo_place
from workers.store.urls import bucket_and_prefix, file_path

#: A source whose first photos are outputs, all of so many, may be a destination.
SAMPLE = 8
#: Objects among which these are looked for: a page of a listing.
LOOKED_THROUGH = 1000


class OverlapError(WorkerError):
    """Raised when source and destination share objects: a protected photo would be taken for a source."""


@dataclass(frozen=True)
class Source:
    """A place to protect."""

    #: Canonical; of one photo, that of what holds it.
    url: str
    #: The one photo that was named; None for all there are.
    photo: PhotoRef | None = None


def find_source(text: str, settings: Settings, *, private: bool = False) -> Source:
    """Return what a folder, file or URL names.

    Raises:
        NotFound: there is nothing of that name.
        IsOutput: it is an output, or a destination of earlier batches that holds outputs.
        NotAllowed: APF_ALLOWED_URLS is set, and it lies outside.
        BadRequest: it is one photo, and should be a gradient file.
        StoreError: it cannot be looked at.
    """
    url = canonical_url(text)
    if settings.allowed_urls:
        check_allowed(url, settings.allowed, what="source")
    is_file = url.startswith("file:")
    if is_file and file_path(url).is_file():
        return _one(url, settings, private=private)
    if is_file and not file_path(url).exists():
        raise StoreGone(f"there is no folder or photo {file_path(url)}: check the name")
    store = open_store(url, s3=settings.s3)
    first = list(islice(store.list(left_out=_passed_over), LOOKED_THROUGH))
    if first:
        _check_originals(store, first, settings, private=private)
    elif not is_file and bucket_and_prefix(url)[1]:
        return _one(url, settings, private=private)
    return Source(url)


def is_source_of(batch: Batch, text: str) -> bool:
    """Return whether a batch is of this source, which may be one photo."""
    url = canonical_url(text)
    one = batch.named[0].key if len(batch.named) == 1 else None
    return batch.source == url or (one is not None and photo_place(batch.source, one) == photo_place(url))


def check_places(source: str, destination: str, settings: Settings, photo: PhotoRef | None = None) -> None:
    """Check where work would read and write, by canonical URLs.

    Raises:
        NotAllowed: APF_ALLOWED_URLS is set, and one of the two lies outside.
        OverlapError: outputs would lie among the photos.
    """
    if settings.allowed_urls:
        check_allowed(source, settings.allowed, what="source")
        check_allowed(destination, settings.allowed, what="destination")
    if overlapping(source, destination, photo.key if photo else None):
        raise OverlapError(f"{source} and {destination} overlap: give a destination outside the source")


def overlapping(source: str, destination: str, photo: str | None) -> bool:
    """Return whether outputs would lie among the photos; the output of one photo, by its key, only where that itself
    lies.
    """
    if photo is None:
        return overlap(source, destination)
    if source.startswith("file:") and destination.startswith("file:"):
        with suppress(OSError):  # it is not there: the source's is
            return (file_path(source) / photo).samefile(file_path(destination) / photo)
        return False
    return photo_place(source, photo) == photo_place(destination, photo)


def check_folder(destination: str) -> None:
    """Raise BadRequest where one photo's destination is named like a photo: it would become a folder of that name."""
    url = canonical_url(destination)
    if has_photos_suffix(url) and not (url.startswith("file:") and Path(file_path(url)).is_dir()):
        raise BadRequest(
            f"{destination} is named like a photo, and DST is a folder or prefix: the photo keeps its name"
        )


def _one(url: str, settings: Settings, *, private: bool) -> Source:
    """Return the one photo of this URL, or the empty prefix; raises NotFound where there is neither."""
    if url.startswith("file:"):
        path = file_path(url)
        folder, key = canonical_url(path.parent), path.name
    else:
        folder, (key,) = parent_url(url, 1)
    store = open_store(folder, s3=settings.s3)
    info = store.head(key)
    if info is None:
        if _is_marked(store, key):
            return Source(url)
        raise NotFound(f"there is no object {url}, and none below {url}/: check the name")
    if private and suffix(key) != GRADIENT_SUFFIX:
        raise BadRequest(f"{key!r} is no gradient file by its suffix, and private batches are of those alone")
    if is_output(info.metadata):
        raise _is_output(url, info)
    return Source(folder, PhotoRef(key=info.key, etag=info.etag, size=info.size))


def _is_marked(store: Store, key: str) -> bool:
    """Return whether a console made a folder of this name, with nothing in it."""
    return store.head(f"{key}/") is not None


def _passed_over(_: LeftOut) -> None:
    """Pass over what the planner reports."""


def _check_originals(store: Store, infos: Sequence[ObjectInfo], settings: Settings, *, private: bool) -> None:
    outputs: list[ObjectInfo] = []
    for info in islice((info for info in infos if is_taken(info, private=private)), SAMPLE):
        try:
            found = store.head(info.key)
        except Forbidden:  # a producer may be allowed to list, and not to read
            return
        if found is None or not is_output(found.metadata):
            return  # those that are outputs fail one by one
        outputs.append(found)
    if outputs and _is_destination(store.url, settings):
        raise _is_output(store.url, outputs[0])


def _is_output(url: str, found: ObjectInfo) -> IsOutput:
    batch = found.metadata.get(BATCH, "unknown")
    return IsOutput(
        f"{url} holds outputs of apf, such as {found.key!r} of batch {batch}, and to protect them again would only "
        "harm them: name the originals (are source and destination the wrong way round?)"
    )


def _is_destination(url: str, settings: Settings) -> bool:
    return any(_has_batches(place, settings) for place in _places_around(url))


def _has_batches(place: str, settings: Settings) -> bool:
    with suppress(StoreError):
        if Ledger(open_store(place, s3=settings.s3), RESERVED.rstrip("/")).batch_ids():
            return True
        return bool(open_ledger(place, ledger_url=settings.ledger_root, s3=settings.s3).batch_ids())
    return False


def _places_around(url: str) -> Iterator[str]:
    """Yield the place, and all that it lies in."""
    if url.startswith("file:"):
        path = file_path(url)
        yield from map(canonical_url, (path, *path.parents))
        return
    while True:
        yield url
        if not bucket_and_prefix(url)[1]:
            return
        url, _ = parent_url(url, 1)
