"""The device's commands leave out what is excluded, and tell of what they cannot look into."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from apf.private import folders
from tests.apf.private.commands import files_in, run, told


def test_excluded_photos_are_counted_and_not_protected(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The default list, the folder's own file and --exclude leave out, and a photo that is named is taken."""
    folder = tmp_path / "in"
    shutil.copytree(photos, folder)
    for name in ("@eaDir/a.png", "drafts/a.png", "._a.png", "b.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(folder / "anna.png", folder / name)
    (folder / ".apfignore").write_text("drafts/\n")
    arguments = ["alone", folder, "-o", tmp_path / "out", "--json", "--exclude", "b.*", "--exclude", "trips/"]
    assert run(*arguments) == 0
    said = told(capsys)
    assert (said["photos"], said["excluded"]) == (1, 5)
    assert files_in(tmp_path / "out") == ["anna.png"]
    assert len(folders.photos_in([folder / "._a.png"]).sources) == 1


def test_a_malformed_pattern_ends_the_command(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is named, and nothing is written."""
    assert run("alone", photos, "-o", tmp_path / "out", "--exclude", "!") == 2
    assert "'!' is no pattern" in capsys.readouterr().err


def test_a_link_to_a_folder_outside_fails_by_name(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Photos behind it are not protected, and that is said; a link inside the folder leads to nothing new."""
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(photos / "anna.png", folder / "anna.png")
    (folder / "others").symlink_to(photos)
    (folder / "here").symlink_to(".")
    assert run("alone", folder, "-o", tmp_path / "out", "--json") == 1
    failed = [one for one in told(capsys)["each"] if one["outcome"] == "failed"]
    assert [(Path(one["photo"]).name, "name that folder itself" in one["reason"]) for one in failed] == [
        ("others", True)
    ]


def test_a_name_that_is_too_long_is_told(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A gradient file named after a photo has a longer name: no errno, and no traceback."""
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(photos / "anna.png", folder / ("x" * 250 + ".png"))
    assert run("gradient", folder, "-o", tmp_path / "asked", "--names", "--json") == 1
    (one,) = told(capsys)["each"]
    assert "a part of its name is too long for this file system: rename the photo" in one["reason"]
