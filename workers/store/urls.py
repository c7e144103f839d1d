"""URLs of stores: one canonical text for each place, and whether two places overlap."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes, urlsplit

from workers.errors import StoreError

#: The schemes of the stores that there are, and whether others may be given to read what lies in one.
SCHEMES = {"file": False, "s3": True}

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")


def canonical_url(text: str | Path) -> str:
    """One URL for a place: a plain folder or file:// URL becomes an absolute file:// URL, percent-encoded.

    `s3://bucket/prefix` is taken byte for byte, without slashes at the end.

    Raises:
        StoreError: the text is empty, of another scheme, or names no bucket.
    """
    text = str(text)
    if not text or "\0" in text:
        raise StoreError(f"{text!r} names no place: use a folder, file:///folder or s3://bucket/prefix")
    match = _SCHEME.match(text)
    if match is None:
        return _file_url(Path(text))
    scheme = match[1].lower()
    if scheme == "file":
        return _file_url(_path_of_url(text))
    if scheme in SCHEMES:
        return _bucket_url(scheme, text[match.end() :], text)
    raise StoreError(f"{text!r}: the scheme {scheme}:// is not known; use a folder, file:// or s3://bucket/prefix")


def is_bucket(url: str) -> bool:
    """Return whether a canonical URL is a bucket's: one that others may be given to read, and that is never made."""
    return SCHEMES.get(url.partition(":")[0], True)


def file_path(url: str) -> Path:
    """Return the absolute path of a canonical file:// URL."""
    return Path(os.fsdecode(unquote_to_bytes(url.removeprefix("file://"))))


def bucket_and_prefix(url: str) -> tuple[str, str]:
    """Bucket and prefix of a canonical s3:// URL; the prefix has no slash at its end."""
    bucket, _, prefix = url.partition("://")[2].partition("/")
    return bucket, prefix


def child_url(url: str, *parts: str) -> str:
    """Return the URL of a place under another; the parts are plain names that need no encoding."""
    return "/".join([url.removesuffix("/"), *parts])


def parent_url(url: str, levels: int) -> tuple[str, tuple[str, ...]]:
    """Return the URL some levels up, and the names that were cut off: the inverse of `child_url`."""
    parent, *names = url.rsplit("/", levels)
    return ("file:///" if parent == "file://" else parent), tuple(names)


def overlap(a: str | Path, b: str | Path) -> bool:
    """Return whether one place is the other or lies inside it. Folders are compared with their symlinks resolved."""
    one, other = canonical_url(a), canonical_url(b)
    if one.startswith("file:") and other.startswith("file:"):
        return _folders_overlap(file_path(one), file_path(other))
    return inside(one, other) or inside(other, one)


def inside(inner: str, outer: str) -> bool:
    """Return whether a canonical URL is another or lies under it, by its text alone."""
    return (inner + "/").startswith(outer + "/")


def _folders_overlap(a: Path, b: Path) -> bool:
    a, b = a.resolve(), b.resolve()
    if a.is_relative_to(b) or b.is_relative_to(a):
        return True
    # Bind mounts and file systems that ignore case: one folder, two names.
    return any(_same(a, x) for x in (b, *b.parents)) or any(_same(b, x) for x in (a, *a.parents))


def _same(a: Path, b: Path) -> bool:
    try:
        return a.samefile(b)
    except OSError:
        return False


def _file_url(path: Path) -> str:
    # Not resolved: the user's own name for the place is what stands in the ledger.
    absolute = os.path.abspath(path)  # noqa: PTH100 - Path.absolute() keeps ".."
    # POSIX lets two leading slashes stand; they mean the same place on every system we run on.
    return "file:///" + quote(os.fsencode(absolute.lstrip("/")))


def _path_of_url(text: str) -> Path:
    parts = urlsplit(text)
    if parts.query or parts.fragment or text.endswith(("?", "#")):
        raise StoreError(f"{text!r}: write ? and # in a file:// URL as %3F and %23")
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise StoreError(f"{text!r}: a file:// URL needs three slashes and an absolute path, as in file:///photos")
    raw = unquote_to_bytes(parts.path)
    if b"\0" in raw:
        raise StoreError(f"{text!r}: %00 cannot be part of a path")
    return Path(os.fsdecode(raw))


def _bucket_url(scheme: str, rest: str, text: str) -> str:
    bucket, _, prefix = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise StoreError(f"{text!r}: {bucket!r} is not a bucket's name; use {scheme}://bucket/prefix")
    prefix = prefix.rstrip("/")
    return f"{scheme}://{bucket}/{prefix}" if prefix else f"{scheme}://{bucket}"
