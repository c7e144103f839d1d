"""Folders that the page may show and save into: the user's own, and those named to the command."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from workers.errors import BadRequest
from workers.store.media_types import has_photos_suffix

#: Entries of one folder that are looked at.
LOOKED_AT = 5000


@dataclass(frozen=True)
class Folder:
    """One folder, as the page shows it."""

    path: Path
    #: From a root to it.
    way: tuple[Path, ...]
    folders: tuple[Path, ...]
    #: In it, not below.
    photos: int


class Folders:
    """What lies below some roots, symbolic links resolved."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots = tuple(dict.fromkeys(Path(os.path.realpath(root)) for root in roots if root.is_dir()))

    def inside(self, text: str) -> Path:
        """Return a folder that the user named; raises BadRequest where it is none, or outside."""
        path = Path(os.path.realpath(Path(text).expanduser()))
        if not any(path.is_relative_to(root) for root in self.roots):
            raise BadRequest(f"{path} is not among your own folders. Start `apf app {path}` to allow it")
        if not path.is_dir():
            raise BadRequest(f"There is no folder {path}")
        return path

    def look(self, text: str) -> Folder:
        """Return what is in a folder; names that begin with a dot, or are no text, are left out."""
        path = self.inside(text)
        root = max((root for root in self.roots if path.is_relative_to(root)), key=lambda root: len(root.parts))
        way = [path, *path.parents][: len(path.parts) - len(root.parts) + 1]
        folders, photos = [], 0
        try:
            with os.scandir(path) as entries:
                for _, entry in zip(range(LOOKED_AT), entries, strict=False):
                    if entry.name.startswith(".") or not entry.name.isprintable():  # no text, that a page could show
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(Path(entry.path))
                    photos += has_photos_suffix(entry.name)
        except OSError as error:
            raise BadRequest(f"{path} cannot be read ({error.strerror})") from error
        return Folder(path, tuple(reversed(way)), tuple(sorted(folders, key=lambda one: one.name.casefold())), photos)


def save(keys: Iterable[str], source: Path, into: Path, name: str) -> Path:
    """Copy photos into a new folder, so that nothing there is replaced; returns it.

    Raises:
        BadRequest: the folder cannot be written.
    """
    try:
        place = _new_folder(into, name)
        for key in keys:
            copy = place / key
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / key, copy)
    except OSError as error:
        raise BadRequest(f"{into} cannot be written ({error.strerror}): choose another folder") from error
    return place


def _new_folder(into: Path, name: str) -> Path:
    number = 1
    while True:
        place = into / (name if number == 1 else f"{name} ({number})")
        try:
            place.mkdir()
        except FileExistsError:
            number += 1
        else:
            return place
