"""Where a page is written, and what it never overwrites."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.report.output_files import GENERATOR, MARK, Target, TargetError


@pytest.mark.parametrize(
    ("asked", "page"),
    [
        ("x.html", "x.html"),
        ("sub/x.HTM", "sub/x.HTM"),
        ("folder", "folder/index.html"),
        ("folder/", "folder/index.html"),
        ("there.html", "there.html/index.html"),
        (None, "apf-report-id.html"),
    ],
)
def test_a_file_or_a_folder_can_be_named(
    asked: str | None, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that ends in .html is the page, unless it is a folder already; any other is a folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.html").mkdir()
    assert Target.at(asked, "id").page == tmp_path / page


def test_nothing_is_written_into_source_or_destination(tmp_path: Path) -> None:
    """There the page would be published, or its pictures protected; a link to either is no way in."""
    album, link = tmp_path / "album", tmp_path / "link"
    (album / "sub").mkdir(parents=True)
    link.symlink_to(album)
    for page in (album / "x.html", album / "sub" / "x.html", link / "x.html"):
        with pytest.raises(TargetError, match="published or protected"):
            Target(page).check(apart=(album.as_uri(), "s3://bucket/out"))
    Target(tmp_path / "x.html").check(apart=(album.as_uri(), "s3://bucket/out"))
    Target(tmp_path / "album-2" / "x.html").check(apart=(album.as_uri(),))


def test_other_peoples_files_and_folders_are_left_alone(tmp_path: Path) -> None:
    """Only a page of ours, and a folder with our mark, is replaced."""
    page, folder = tmp_path / "x.html", tmp_path / "x_files"
    page.write_text("<html>a diary</html>")
    with pytest.raises(TargetError, match="no report of apf's"):
        Target(page).check(apart=())
    page.write_text(f"<html><head>{GENERATOR}")
    folder.mkdir()
    (folder / "dear.jpg").touch()
    with pytest.raises(TargetError, match="no report's folder"):
        Target(page).check(apart=())
    (folder / MARK).touch()
    Target(page).check(apart=())


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    """A file stands where a folder should be: an error with a cure, and not a traceback."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(TargetError, match=r"page.html cannot be written .*name another place"):
        Target(tmp_path / "file" / "page.html").publish("page")
    with pytest.raises(TargetError, match="name another place"):
        Target(tmp_path / "file" / "page.html").place("1.jpg", b"x")


def test_a_new_page_replaces_the_old_one_whole(tmp_path: Path) -> None:
    """Old pictures go with the old page; a report that is given up leaves the old one as it was."""
    page = tmp_path / "a b.html"
    first = Target(page)
    assert first.place("1.jpg", b"old") == "a%20b_files/1.jpg"
    first.publish(f"{GENERATOR}one")
    given_up = Target(page)
    given_up.place("2.jpg", b"lost")
    given_up.discard()
    assert sorted(path.name for path in (tmp_path / "a b_files").iterdir()) == [MARK, "1.jpg"]
    second = Target(page)
    second.place("3.jpg", b"new")
    second.publish(f"{GENERATOR}two")
    assert sorted(path.name for path in (tmp_path / "a b_files").iterdir()) == [MARK, "3.jpg"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a b.html", "a b_files"]
    assert second.size_bytes == len(f"{GENERATOR}two") + 3
