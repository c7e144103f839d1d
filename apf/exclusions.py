"""Exclusions by name: what file systems and NAS boxes leave behind, and what a user excludes.

Patterns are those of .gitignore: `*` ends at a slash, `**` does not, a slash at the end means folders alone, one before
the end ties the pattern to the source's own folder, `!` takes a match back, and the last pattern that matches counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from apf.errors import PatternError

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

#: In the source's own folder: patterns, one a line, and comments behind a #.
IGNORE_FILE = ".apfignore"
#: A batch keeps them in its record, which each worker of it reads.
MAX_PATTERNS = 1000
MAX_IGNORE_FILE_BYTES = 64 * 1024

#: Excluded everywhere, unless a pattern with a `!` takes it back: shadows, thumbnails and copies of photos that lie
#: elsewhere, and what was thrown away. Not `lost+found`: what a file system check has saved may be photos.
DEFAULTS = (
    # macOS
    "._*", ".AppleDouble/", "__MACOSX/", ".DS_Store", ".Trash/", ".Trashes/", ".TemporaryItems/", ".Spotlight-V100/",
    ".fseventsd/", ".DocumentRevisions-V100/",
    # Synology, QNAP, Asustor
    "@eaDir/", "#recycle/", "#snapshot/", "@Recycle/", "@Recently-Snapshot/", ".@__thumb/", "@__thumb/",
    ".@upload_cache/", "@tmp/",
    # Windows
    "$RECYCLE.BIN/", "RECYCLER/", "System Volume Information/",
    # Linux desktops, snapshots of file systems, and files that a server keeps while they are open
    ".Trash-*/", ".thumbnails/", ".thumbs/", ".xvpics/", ".snapshot/", ".snapshots/", ".zfs/", ".nfs*", ".fuse_hidden*",
    # Syncthing, Resilio, Dropbox, digiKam
    ".stfolder/", ".stversions/", "~syncthing~*", ".syncthing.*", ".sync/", ".dropbox.cache/", ".dtrash/",
)  # fmt: skip


class Exclusions:
    """The default list, and patterns after it. Safe to share between threads.

    Raises:
        PatternError: a pattern is malformed, or there are too many.
    """

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        if len(patterns) > MAX_PATTERNS:
            raise PatternError(f"{len(patterns)} patterns exclude photos, and {MAX_PATTERNS} are the most: merge some")
        self._patterns = _spec(patterns) if patterns else None

    def match(self, key: str) -> bool:
        """Return whether the object under this key is left alone; a folder's key ends with a slash."""
        if self._patterns is not None:
            said: bool | None = self._patterns.check_file(key).include
            if said is not None:
                return said
        return _LEFT_BEHIND.search(key) is not None


def patterns_in(data: bytes, where: str) -> tuple[str, ...]:
    """Return the patterns of an ignore file.

    Raises:
        PatternError: it is too large, or no UTF-8.
    """
    if len(data) > MAX_IGNORE_FILE_BYTES:
        raise PatternError(f"{where} has over {MAX_IGNORE_FILE_BYTES} bytes: merge some of its patterns")
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise PatternError(f"{where} is no UTF-8 text: save it again as such") from error
    return tuple(line for line in lines if line.strip() and not line.startswith("#"))


def _spec(patterns: Sequence[str]) -> GitIgnoreSpec:
    from pathspec import GitIgnoreSpec  # noqa: PLC0415  loaded only where something is excluded

    # A file's comments are gone by now: `#recycle/` is a folder.
    lines = [f"\\{pattern}" if pattern.startswith("#") else pattern for pattern in patterns]
    for line in lines:
        try:
            GitIgnoreSpec.from_lines([line])
        except ValueError as error:
            raise PatternError(f"{line!r} is no pattern: write it as in .gitignore, such as '*.png'") from error
    return GitIgnoreSpec.from_lines(lines)


def _regex(names: Iterable[str]) -> str:
    return "|".join(re.escape(name.rstrip("/")).replace(r"\*", "[^/]*") for name in names)


#: `DEFAULTS` as one expression: it is asked of each key of a library, so first characters are looked at first.
_FIRST = re.escape("".join(sorted({name[0] for name in DEFAULTS})))
_FOLDERS = _regex(name for name in DEFAULTS if name.endswith("/"))
_ANYTHING = _regex(name for name in DEFAULTS if not name.endswith("/"))
_LEFT_BEHIND = re.compile(f"(?:^|/)(?=[{_FIRST}])(?:(?:{_FOLDERS})/|(?:{_ANYTHING})(?:/|$))")
