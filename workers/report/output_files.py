"""Files of the page: one, and for a large album a folder of pictures beside it.

    report.html            the page
    report_files/00001-thumb.jpg ...

A page replaces an older one of ours, whole, and nothing else: with the older page go its pictures, which may be of
originals.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from workers.errors import WorkerError
from workers.store.urls import file_path

#: Stands in the head of every page, and tells it from other people's files.
GENERATOR = '<meta name="generator" content="apf report">'
#: Lies in every folder of pictures, and tells it from other people's folders.
MARK = ".apf-report"
_HEAD_BYTES = 4096


class TargetError(WorkerError):
    """Raised when a page cannot be written where it was asked for. Permanent: name another file with -o."""


class Target:
    """A page's place. Pictures go into a new folder first; `publish` puts page and pictures in place."""

    def __init__(self, path: Path) -> None:
        self.page = path
        self.folder = path.with_name(f"{path.stem}_files")
        self._new = path.with_name(f".apf-{secrets.token_hex(8)}_files")

    @classmethod
    def at(cls, asked: str | None, batch_id: str) -> Target:
        """Return a file's or folder's path as the user gave it; None: a new file in the working folder."""
        if asked is None:
            return cls(Path.cwd() / f"apf-report-{batch_id}.html")
        path = Path(asked).expanduser().absolute()
        with _explained(path):
            is_folder = path.is_dir()
        if is_folder or asked.endswith(("/", os.sep)) or path.suffix.lower() not in (".html", ".htm"):
            return cls(path / "index.html")
        return cls(path)

    def check(self, *, apart: tuple[str, ...]) -> None:
        """Whether the page may be written.

        Args:
            apart: canonical URLs of source and destination: what lies there is protected, or published.

        Raises:
            TargetError: it lies in one of these, or another program's file or folder has its name.
        """
        with _explained(self.page):
            self.folder.exists()
            is_there = self.page.exists()
        here = self.page.parent.resolve()
        for url in apart:
            if url.startswith("file:") and here.is_relative_to(file_path(url).resolve()):
                raise TargetError(
                    f"{self.page} lies inside {url}, where it would be published or protected itself: "
                    "name another place with -o"
                )
        if is_there and not self._is_ours():
            raise TargetError(f"{self.page} is no report of apf's and is left as it is: name another file with -o")
        if self.folder.exists() and not (self.folder / MARK).exists():
            raise TargetError(f"{self.folder} is no report's folder and is left as it is: name another file with -o")

    def place(self, name: str, data: bytes) -> str:
        """Write a picture; returns what the page calls it."""
        with _explained(self.page):
            if not self._new.exists():
                self._new.mkdir(mode=0o700, parents=True)
                (self._new / MARK).touch()
            (self._new / name).write_bytes(data)
        return f"{quote(self.folder.name)}/{name}"

    def publish(self, page: str) -> None:
        """Put page and pictures in place, and take older ones away."""
        temporary = self.page.with_name(f".apf-{secrets.token_hex(8)}")  # as long as may be is the page's own name
        with _explained(self.page):
            self.page.parent.mkdir(parents=True, exist_ok=True)
            temporary.touch(mode=0o600)  # from its first byte on: it may hold unprotected photos
            temporary.write_text(page, encoding="utf-8", newline="\n")
            if self.folder.exists():
                shutil.rmtree(self.folder)
            if self._new.exists():
                self._new.rename(self.folder)
            temporary.replace(self.page)

    def discard(self) -> None:
        """Take away what was not published."""
        shutil.rmtree(self._new, ignore_errors=True)

    @property
    def size_bytes(self) -> int:
        """Of page and pictures together."""
        files = [self.page, *(self.folder.iterdir() if self.folder.exists() else ())]
        return sum(path.stat().st_size for path in files)

    def _is_ours(self) -> bool:
        if not self.page.is_file():
            return False
        with self.page.open("rb") as file:
            return GENERATOR.encode() in file.read(_HEAD_BYTES)


@contextmanager
def _explained(page: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise TargetError(f"{page}: a part of the name is too long for this file system: shorten it") from error
        raise TargetError(f"{page} cannot be written ({error}): name another place with -o") from error
