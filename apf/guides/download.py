"""Fetch guides and detectors that are known by their digest. A file takes its place once it is checked."""

from __future__ import annotations

import hashlib
import http.client
import os
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

from apf.errors import GuideError, GuideUnreachable
from apf.guides.catalogue import DETECTORS, FETCHED, Known, fetched_path, is_here

#: A server that says nothing for so long, and a transfer that takes longer in all, are given up.
SILENCE_S, WHOLE_S = 30.0, 1800.0
CHUNK = 1 << 16


def find_known(name: str) -> Known:
    """Raise GuideError where no guide or detector of this name is fetched."""
    known = {**FETCHED, **DETECTORS}
    if name not in known:
        raise GuideError(
            f"no guide {name!r} to fetch: there is {', '.join(FETCHED)} (and the detector {', '.join(DETECTORS)}); "
            "`apf guides list` has all guides"
        )
    return known[name]


def pull(
    known: Known,
    place: str = "",
    folder: Path | None = None,
    *,
    silence_s: float = SILENCE_S,
    whole_s: float = WHOLE_S,
) -> Path:
    """Fetch a guide or a detector, unless it is there already; returns where it lies.

    Args:
        place: a URL or a file to take it from, instead of where its makers have it. The digest is the same.
        folder: where it goes, instead of `guides_folder()`.

    Raises:
        GuideUnreachable: it cannot be fetched now.
        GuideError: it is not there or cannot be written, or what came is not what its digest says.
    """
    target, place = fetched_path(known, folder), place or known.url
    if is_here(known, folder):
        return target
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(prefix=f".{known.name}-", suffix=".partial", dir=target.parent)
    except OSError as error:
        raise GuideError(
            f"{target.parent} cannot be written to ({error.strerror}): name another folder with XDG_DATA_HOME"
        ) from error
    try:
        with os.fdopen(handle, "wb") as file:
            for chunk in _checked(_chunks(place, silence_s, whole_s), known, place):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        Path(draft).replace(target)
    except OSError as error:
        raise GuideError(f"{target} cannot be written ({error.strerror}): make room, and pull again") from error
    finally:
        Path(draft).unlink(missing_ok=True)
    return target


def _checked(chunks: Iterator[bytes], known: Known, place: str) -> Iterator[bytes]:
    """Yield the chunks, once counted; the last was handed on only if the whole is what it should be."""
    digest, count = hashlib.sha256(), 0
    for chunk in chunks:
        digest.update(chunk)
        count += len(chunk)
        if count > known.bytes:
            raise GuideError(f"{place} has more than the {known.bytes} bytes of {known.name}: {_elsewhere(known)}")
        yield chunk
    if count < known.bytes:
        raise GuideError(f"{place} ended after {count} of {known.bytes} bytes: try again, or {_elsewhere(known)}")
    if digest.hexdigest() != known.sha256:
        raise GuideError(
            f"{place} has SHA-256 {digest.hexdigest()}, and {known.name} has {known.sha256}: {_elsewhere(known)}"
        )


def _elsewhere(known: Known) -> str:
    return f"name another place with `apf guides pull {known.name} --from URL_OR_FILE`"


def _chunks(place: str, silence_s: float, whole_s: float) -> Iterator[bytes]:
    if not place.lower().startswith(("http://", "https://")):
        yield from _of_file(place)
        return
    until = time.monotonic() + whole_s
    try:
        with urllib.request.urlopen(place, timeout=silence_s) as answer:  # noqa: S310 - http and https alone
            while chunk := answer.read1(CHUNK):
                yield chunk
                if time.monotonic() > until:
                    raise GuideError(f"{place} took more than {whole_s:g} s: try again, or give --from a file")
    except urllib.error.HTTPError as error:
        error.close()
        kind = GuideUnreachable if error.code >= HTTPStatus.INTERNAL_SERVER_ERROR else GuideError
        raise kind(f"{place} answered {error.code} {error.reason}: name another place with --from") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        said = f"nothing for {silence_s:g} s" if isinstance(reason, TimeoutError) else str(reason) or repr(reason)
        raise GuideUnreachable(
            f"{place} cannot be fetched ({said}): is the network there? Or give --from a file"
        ) from error


def _of_file(place: str) -> Iterator[bytes]:
    try:
        with Path(place).expanduser().open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except OSError as error:
        raise GuideError(f"{place} cannot be read ({error.strerror}): --from takes a URL or a file") from error
