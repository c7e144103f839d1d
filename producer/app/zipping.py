"""A zip that is made while it is sent: no copy on disk, and no more in memory than a piece."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

PIECE = 2**18


class _Sink:
    """Takes what `zipfile` writes; it cannot be sought, so that sizes follow the files."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def taken(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


def zipped(keys: Iterable[str], folder: Path, name: str) -> Iterator[bytes]:
    """Yield the pieces of a zip of these files, in a folder of this name. Photos are stored: they are small already."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]  # a sink will do
        for key in keys:
            info = zipfile.ZipInfo.from_file(folder / key, f"{name}/{key}")
            with (folder / key).open("rb") as photo, archive.open(info, "w", force_zip64=True) as place:
                while piece := photo.read(PIECE):
                    place.write(piece)
                    yield sink.taken()
    yield sink.taken()
