"""Albums: what the app keeps of each, in a folder of the user's own data.

WORK/ID/album.json     the album's record
WORK/ID/photos/        photos that the browser handed over; an album of a folder has none
WORK/ID/others/        photos to compare with, which are not protected
WORK/ID/protected/     the destination, with its ledger in `.apf`
WORK/ID/looks/         the first face under each recipe
WORK/ID/cards/         pictures to compare
WORK/ID/check.json     what the check said
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from apf.recipe import DEFAULT_RECIPE
from workers.errors import BadRequest, NotFound

_ID = re.compile(r"^\d{8}-\d{6}-[0-9a-f]{8}$")


class Album(BaseModel):
    """One album. Fields of a newer version are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    #: For people.
    name: str
    #: The folder of the photos; None: those that the browser handed over.
    folder: str | None = None
    recipe: str = DEFAULT_RECIPE
    #: The batch that protects it; empty before. It may not be in the ledger yet.
    batch: str = ""
    #: Whether the user has chosen all photos, and chooses how much may be seen.
    chosen: bool = False
    #: Whether the user has said that the program's grouping of faces is right.
    confirmed: bool = False
    #: Where the protected photos were saved last.
    saved: str = ""


def work_folder() -> Path:
    """Where albums are kept: in the user's own data."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "apf" / "app"


class Albums:
    """The albums of one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def new(self, name: str, folder: Path | None = None) -> Album:
        """Return a new album, which is kept from now on."""
        now = datetime.now(UTC)
        album = Album(
            id=f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(4)}", name=name, folder=str(folder) if folder else None
        )
        self.place(album.id).mkdir(mode=0o700)
        try:
            return self.keep(album)
        except OSError:  # the disk is full, say
            self.remove(album.id)
            raise

    def get(self, album_id: str) -> Album:
        """Raise NotFound where there is no such album."""
        try:
            return Album.model_validate_json((self.place(album_id) / "album.json").read_bytes())
        except (OSError, ValidationError) as error:
            raise NotFound(f"there is no album {album_id!r} any more: go to the first page") from error

    def keep(self, album: Album) -> Album:
        """Write the album's record, whole or not at all."""
        place = self.place(album.id) / "album.json"
        draft = place.with_suffix(".tmp")
        draft.write_text(album.model_dump_json())
        draft.replace(place)
        return album

    def change(self, album_id: str, **fields: object) -> Album:
        """Keep some fields anew."""
        return self.keep(self.get(album_id).model_copy(update=fields))

    def remove(self, album_id: str) -> None:
        """Remove all that the app keeps of an album; a folder of the user's own is not among it."""
        shutil.rmtree(self.place(album_id), ignore_errors=True)

    def all(self) -> Iterator[Album]:
        """Yield the albums, the newest first."""
        for place in sorted(self.root.iterdir(), reverse=True):
            if _ID.match(place.name):
                try:
                    yield self.get(place.name)
                except NotFound:
                    continue

    def place(self, album_id: str, *parts: str) -> Path:
        """Return a place of the app's own; raises BadRequest where the id is none."""
        if not _ID.match(album_id):
            raise BadRequest(f"{album_id!r} names no album")
        return self.root.joinpath(album_id, *parts)

    def source(self, album: Album) -> Path:
        return Path(album.folder) if album.folder else self.place(album.id, "photos")

    def destination(self, album: Album) -> Path:
        return self.place(album.id, "protected")
