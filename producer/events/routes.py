"""Routes: the destination of each bucket and prefix, and what is ignored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from apf.exclusions import Exclusions
from workers.errors import SettingsError, StoreError
from workers.store import RESERVED, ObjectInfo, canonical_url, inside, overlap
from workers.store.media_types import is_taken
from workers.store.urls import bucket_and_prefix

_DEFAULTS = Exclusions()
SCHEME = "s3://"
#: Of a batch's tenant, in characters.
MAX_TENANT = 200


@dataclass(frozen=True)
class Route:
    """Photos below one URL are protected into another. Both are canonical s3:// URLs."""

    source: str
    destination: str
    #: Whether it is of gradient files, and not of photos.
    private: bool = False


class Ignored(StrEnum):
    """Why an object is left alone."""

    #: It lies under no route's source.
    unrouted = "unrouted"
    #: We wrote it ourselves: taken for an upload, it would go round for ever.
    own_output = "own_output"
    #: A ledger's.
    reserved = "reserved"
    #: Its suffix says that it is no photo; of a private route, no gradient file.
    no_photo = "no_photo"
    #: Remains of file systems and NAS boxes: `apf.exclusions.DEFAULTS`.
    excluded = "excluded"


def parse_routes(texts: Sequence[str], private: Sequence[str] = ()) -> tuple[Route, ...]:
    """Routes from `s3://from/here=s3://to/there`, those of photos and those of gradient files.

    Raises:
        SettingsError: there is none, one is malformed or doubled, or one's output would be another's upload.
    """
    routes = (*(_route(text) for text in texts), *(_route(text, private=True) for text in private))
    if not routes:
        raise SettingsError("no route: say which uploads go where, as in --route s3://uploads=s3://public")
    sources = [route.source for route in routes]
    if doubled := {source for source in sources if sources.count(source) > 1}:
        raise SettingsError(f"two routes begin at {doubled.pop()}: leave one")
    for route in routes:
        for source in sources:
            if overlap(source, route.destination):
                raise SettingsError(
                    f"{route.destination} and {source} overlap, so that outputs would be taken for uploads, round and "
                    "round: give a destination outside all sources"
                )
    return routes


def _route(text: str, *, private: bool = False) -> Route:
    source, equals, destination = text.partition(f"={SCHEME}")
    if not equals or not source.startswith(SCHEME):
        raise SettingsError(f"route {text!r} is malformed: write s3://bucket/prefix=s3://bucket/prefix")
    try:
        return Route(canonical_url(source), canonical_url(SCHEME + destination), private)
    except StoreError as error:
        raise SettingsError(f"route {text!r}: {error}") from error


class Routes:
    """All routes; the longest source that an object lies under decides."""

    def __init__(self, routes: Iterable[Route], *, own: Iterable[str] = ()) -> None:
        """`own`: further canonical URLs under which we write, such as the ledgers'."""
        self._routes = sorted(routes, key=lambda route: len(route.source), reverse=True)
        self._own = [*(route.destination for route in self._routes), *own]

    def find(self, bucket: str, key: str) -> tuple[Route, str] | Ignored:
        """Return the object's route, and its key below the route's source; or why it is left alone."""
        if "/" in bucket:  # forged: it would name another place than it seems to
            return Ignored.unrouted
        url = f"{SCHEME}{bucket}/{key}"
        if any(inside(url, own) for own in self._own):
            return Ignored.own_output
        route = next((route for route in self._routes if url.startswith(route.source + "/")), None)
        if route is None:
            return Ignored.unrouted
        prefix = bucket_and_prefix(route.source)[1]
        below = key.removeprefix(f"{prefix}/") if prefix else key
        return _why_alone(below, private=route.private) or (route, below)


def _why_alone(below: str, *, private: bool) -> Ignored | None:
    """Why an object under this key below a route's source is left alone; None where it is not."""
    if RESERVED.rstrip("/") in below.split("/"):
        return Ignored.reserved
    if not below or not is_taken(ObjectInfo(key=below, size=0, etag=""), private=private):
        return Ignored.no_photo
    return Ignored.excluded if _DEFAULTS.match(below) else None


def tenant_of(key: str, segments: int) -> str:
    """Return the first folders of a key, as the tenant whose photo it is; empty where there are fewer, or for no
    segments.
    """
    folders = key.split("/")[:-1]
    if not segments or len(folders) < segments:
        return ""
    name = "/".join(folders[:segments])
    return name if len(name) <= MAX_TENANT else hashlib.sha256(name.encode()).hexdigest()
