"""Photos that the browser hands over, kept under their names below the chosen folder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qsl

from workers.errors import BadRequest, ObjectTooLarge
from workers.store import Store, open_store
from workers.store.media_types import has_photos_suffix

#: Largest form.
FORM_BYTES = 2**20


def key_of(name: str) -> str:
    """Return the key of a file as the browser names it, by its way from the folder that was chosen.

    Raises:
        BadRequest: it is no photo by its name, or would lie somewhere else.
    """
    parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", ".")]
    if not parts or ".." in parts or any(part.startswith(".") or not part.isprintable() for part in parts):
        raise BadRequest(f"{name!r} is no name that a photo can have here: rename it")
    if not has_photos_suffix(parts[-1]):
        raise BadRequest(f"{name!r} is no photo by its name")
    return "/".join(parts)


async def body_of(pieces: AsyncIterator[bytes], max_bytes: int) -> bytes:
    """Return a request's whole body; raises ObjectTooLarge where it is over the limit.

    What is over it is read, too, as a browser that is in the middle of sending hears no answer, but not kept.
    """
    found, size = bytearray(), 0
    async for piece in pieces:
        size += len(piece)
        if size <= max_bytes:
            found += piece
    if size > max_bytes:
        raise ObjectTooLarge(f"The photo is larger than {max_bytes // 2**20} MB: scale it down")
    return bytes(found)


async def form_of(pieces: AsyncIterator[bytes]) -> dict[str, str]:
    """Return a form's fields; several of one name with commas between."""
    data = await body_of(pieces, FORM_BYTES)
    found: dict[str, str] = {}
    for name, value in parse_qsl(data.decode("utf-8", "replace"), keep_blank_values=True):
        found[name] = f"{found[name]},{value}" if name in found else value
    return found


def keep(folder: Path, name: str, data: bytes) -> str:
    """Keep a photo; another one of the same name gets a number, and the same one is not kept twice. Returns its key.

    Raises:
        BadRequest: the name is no photo's.
        StoreError: the disk is full, say.
    """
    store, key = open_store(str(folder), create=True), key_of(name)
    path = PurePosixPath(key)
    number = 1
    while _is_other(store, key, data):
        number += 1
        key = str(path.with_name(f"{path.stem} ({number}){path.suffix}"))
    store.put(key, data)
    return key


def _is_other(store: Store, key: str, data: bytes) -> bool:
    info = store.head(key)
    return info is not None and (info.size != len(data) or store.get(key).data != data)
