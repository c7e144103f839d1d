"""Which names are left alone: the default list, and patterns as in .gitignore."""

from __future__ import annotations

import pytest
from pathspec import GitIgnoreSpec

from apf.errors import PatternError
from apf.exclusions import DEFAULTS, MAX_IGNORE_FILE_BYTES, MAX_PATTERNS, Exclusions, patterns_in

LEFT_BEHIND = [
    "._IMG_1.jpg", "2024/._IMG_1.jpg", "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "2024/@eaDir/a.jpg", "#recycle/a.jpg",
    "#snapshot/GMT-2024/a.jpg", ".@__thumb/a.jpg", "@Recycle/a.jpg", "__MACOSX/a.jpg", "x/__MACOSX/._a.jpg",
    ".Trash-1000/files/a.jpg", ".Trashes/501/a.jpg", "$RECYCLE.BIN/S-1-5/a.jpg", "System Volume Information/a",
    ".thumbnails/1.jpg", ".stversions/a~20240101-000000.jpg", ".stfolder/a", ".sync/Archive/a.jpg",
    ".snapshots/1/a.jpg", ".zfs/snapshot/a/a.jpg", ".DS_Store", ".nfs0000000000a1b2", "lib/.dtrash/a",
    ".syncthing.a.jpg.tmp",
]  # fmt: skip
PHOTOS = [
    "IMG_1.jpg", "a._b.jpg", "eaDir/a.jpg", "@eaDir", "my@eaDir/a.jpg", "@eaDirs/a.jpg", "recycle/a.jpg",
    "snapshot/a.jpg", "Trash-1000/a.jpg", ".hidden.jpg", ".hidden/a.jpg", "sync/a.jpg", "lost+found/a.jpg",
    "nfs1.jpg", "",
]  # fmt: skip


@pytest.mark.parametrize("key", LEFT_BEHIND)
def test_what_systems_leave_behind_is_left_alone(key: str) -> None:
    """Shadow files, thumbnails, bins and snapshots are matched wherever they lie."""
    assert Exclusions().match(key)


@pytest.mark.parametrize("key", PHOTOS)
def test_what_only_looks_like_it_is_taken(key: str) -> None:
    """Names that resemble the list's, hidden ones and what a file system check saved are photos."""
    assert not Exclusions().match(key)


@pytest.mark.parametrize("key", [*LEFT_BEHIND, *PHOTOS[:-1]])
def test_the_quick_expression_says_what_the_list_says(key: str) -> None:
    """The default list means what it would as a .gitignore."""
    lines = [name.replace("#", "\\#") for name in DEFAULTS]
    assert bool(GitIgnoreSpec.from_lines(lines).check_file(key).include) is Exclusions().match(key)


@pytest.mark.parametrize(
    ("patterns", "key", "matched"),
    [
        (["*.png"], "a/b.png", True),
        (["*.png"], "a/b.PNG", False),
        (["/drafts/"], "drafts/a.jpg", True),
        (["/drafts/"], "x/drafts/a.jpg", False),
        (["drafts/"], "x/drafts/a.jpg", True),
        (["a/*.jpg"], "a/b/c.jpg", False),
        (["a/**/*.jpg"], "a/b/c.jpg", True),
        (["*.jpg", "!keep.jpg"], "keep.jpg", False),
        (["!._keep.jpg"], "._keep.jpg", False),
        (["!._keep.jpg"], "._other.jpg", True),
        (["*.png"], "._a.jpg", True),
        (["lost+found/"], "lost+found/", True),
        (["#mine/"], "#mine/a.jpg", True),
    ],
)
def test_patterns_are_those_of_gitignore(patterns: list[str], key: str, matched: bool) -> None:
    """They come after the default list, and the last that matches counts."""
    assert Exclusions(patterns).match(key) is matched


@pytest.mark.parametrize("pattern", ["!", "a\\"])
def test_a_malformed_pattern_is_named(pattern: str) -> None:
    """One bad pattern of several is told by itself."""
    with pytest.raises(PatternError, match=r"is no pattern: write it as in \.gitignore") as raised:
        Exclusions(["*.png", pattern])
    assert repr(pattern) in str(raised.value)


def test_too_much_is_refused() -> None:
    """A batch's record keeps the patterns, so they are bounded."""
    with pytest.raises(PatternError, match="are the most"):
        Exclusions(["a"] * (MAX_PATTERNS + 1))
    with pytest.raises(PatternError, match="merge"):
        patterns_in(b"a" * (MAX_IGNORE_FILE_BYTES + 1), "here")
    with pytest.raises(PatternError, match="here is no UTF-8"):
        patterns_in(b"caf\xe9", "here")


def test_an_ignore_file_may_come_from_windows() -> None:
    """A byte order mark, line ends of Windows, comments and empty lines are no patterns."""
    assert patterns_in(b"\xef\xbb\xbf# mine\r\n\r\n*.png\r\ndrafts/\r\n", "here") == ("*.png", "drafts/")
