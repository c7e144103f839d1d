"""Parse SeaweedFS's own events: a filer's webhook with the path of a file and its entries before and after."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from producer.events.models import Created, MalformedEvent, Removed, dictionary, text

#: Where the filer keeps what S3 calls buckets.
BUCKETS = "/buckets/"
#: A bucket's folder for the parts of uploads that are not complete.
UPLOADS = ".uploads"


def change(path: str, message: dict[str, Any]) -> Created | Removed | None:
    """Return what became of a file; None for folders, parts, and paths outside all buckets.

    Args:
        path: of the entry before, or of the new one where there was none.
        message: its `new_entry`, in the folder `new_parent_path`, is missing after a removal.
    """
    if message.get("new_entry") is None:
        place = _bucket_and_key(path)
        return Removed(*place) if place else None
    entry = dictionary(message["new_entry"], "message.new_entry")
    if folder := message.get("new_parent_path"):  # moved, perhaps
        name = text(entry.get("name"), "message.new_entry.name")
        path = f"{text(folder, 'message.new_parent_path').rstrip('/')}/{name}"
    place = _bucket_and_key(path)
    if place is None or entry.get("is_directory"):
        return None
    return Created(*place, etag=_etag(entry.get("attributes")))


def _bucket_and_key(path: str) -> tuple[str, str] | None:
    if not path.startswith(BUCKETS):
        return None
    bucket, _, key = path.removeprefix(BUCKETS).partition("/")
    if not bucket or not key or key.split("/", 1)[0] == UPLOADS:
        return None
    return bucket, key


def _etag(attributes: Any) -> str:
    """Return the MD5 in hexadecimal digits; empty for files in several parts, which have none."""
    md5 = attributes.get("md5") if isinstance(attributes, dict) else None
    if not isinstance(md5, str):
        return ""
    try:
        return base64.b64decode(md5, validate=True).hex()
    except (binascii.Error, ValueError) as error:
        raise MalformedEvent("message.new_entry.attributes.md5 is no base64") from error
