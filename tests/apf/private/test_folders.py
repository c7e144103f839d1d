"""Which photos the device's commands take, and where their results go: never over a photo."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from apf.private.device import Device
from apf.private.key import default_path, load_key
from tests.apf.private.commands import files_in, run, told


@pytest.fixture
def asked(tmp_path: Path, request: pytest.FixtureRequest) -> list[object]:
    """What a command is given behind the photos: `apply` a folder for answers, with the key that it needs."""
    if request.getfixturevalue("command") != "apply":
        return []
    load_key(default_path(), create=True)
    (tmp_path / "answers").mkdir()
    return [tmp_path / "answers"]


@pytest.mark.rotating
@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("command", ["apply", "alone"])
@pytest.mark.parametrize(
    ("given", "out"),
    [
        ("photos", "photos"),
        ("photos", "photos/"),
        ("photos", "photos/protected"),
        ("photos", "photos/trips/../new"),
        ("photos", "."),
        ("photos/trips", "photos"),
        ("photos/trips/Zürich/lake.jpg", "photos"),
        ("photos/anna.png", "photos"),
        ("photos/anna.png", "photos/anna.png"),
        ("photos/anna.png", "link.png"),
        ("photos/anna.png photos/trips", "photos"),
        ("photos/anna.png photos/trips", "photos/trips/more"),
        ("photos", "linked"),
        ("linked", "photos/new"),
    ],
)
def test_outputs_lie_apart_from_the_photos(
    tmp_path: Path,
    photos: Path,
    asked: list[object],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    given: str,
    out: str,
) -> None:
    """An output over a photo, in a folder that was named or above it, also by links: refused before any is written.

    Above it, as the photos there may have the names of those below: here `lake.jpg` and `Zürich/lake.jpg`.
    """
    (tmp_path / "link.png").symlink_to(photos / "anna.png")
    (tmp_path / "linked").symlink_to(photos)
    monkeypatch.chdir(tmp_path)
    assert run(command, *given.split(), *asked, "-o", out) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("apf: ") and "with -o" in printed.err and printed.err.count("\n") == 1


@pytest.mark.usefixtures("untouched")
def test_a_file_of_its_own_may_lie_beside_the_photo(photos: Path, tmp_path: Path) -> None:
    """A single photo's output that is named as a file may lie in a folder above it, and is written over again."""
    for _ in range(2):
        assert run("alone", photos / "trips" / "Zürich" / "lake.jpg", "-o", tmp_path / "lake.jpg") == 0
    assert (tmp_path / "lake.jpg").exists()


def test_a_trailing_slash_means_a_folder(photos: Path, tmp_path: Path) -> None:
    """A single photo goes into a folder that is not there yet where the output's name ends in a slash."""
    lake = photos / "trips" / "Zürich" / "lake.jpg"
    assert run("alone", lake, "-o", f"{tmp_path}/folder/") == 0
    assert run("alone", lake, "-o", f"{tmp_path}/file") == 0
    assert files_in(tmp_path / "folder") == ["lake.jpg"] and (tmp_path / "file").is_file()


@pytest.mark.parametrize("command", ["apply", "alone"])
def test_what_is_there_is_skipped_where_asked(
    photos: Path, answers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """A file that is there stays: its photo fails, or is passed over by --skip-existing; --overwrite replaces it."""
    out = tmp_path / "out"
    arguments = [command, photos, *([answers] if command == "apply" else []), "-o", out, "--json"]
    out.mkdir()
    (out / "anna.png").write_bytes(b"there")
    capsys.readouterr()
    assert run(*arguments, "--skip-existing") == 0
    found = told(capsys)
    assert (found["skipped"], found["no_face"]) == (1, 1) and (out / "anna.png").read_bytes() == b"there"
    assert run(*arguments) == 1
    assert told(capsys)["failed"] == 1 and (out / "anna.png").read_bytes() == b"there"
    assert run(*arguments, "--overwrite") == 0
    assert told(capsys)["skipped"] == 0 and (out / "anna.png").read_bytes() != b"there"
    assert run(*arguments) == 0, "what is there is what it would write"
    before = (photos / "anna.png").read_bytes()
    assert run(command, out, *arguments[2:-3], "-o", photos) != 0, "source and output the wrong way round"
    assert (photos / "anna.png").read_bytes() == before


def test_what_cannot_be_read_fails_alone(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file and a folder that are closed to us are one failed outcome each, and are never skipped; others are done."""
    (photos / "trips" / "closed").mkdir()
    (photos / "closed.png").write_bytes(b"")
    (tmp_path / "out" / "trips" / "closed").mkdir(parents=True)
    real_open, real_scan = Path.open, os.scandir

    def opened(self: Path, *rest: Any, **more: Any) -> Any:
        if self.stem == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return real_open(self, *rest, **more)

    def scanned(path: Any) -> Any:
        if Path(path).stem == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real_scan(path)

    monkeypatch.setattr(Path, "open", opened)
    monkeypatch.setattr(os, "scandir", scanned)
    for command in (["gradient"], ["alone", "--skip-existing"]):
        assert run(*command, photos, "-o", tmp_path / "out", "--json") == 1
        found = told(capsys)
        assert (found["protected"], found["no_face"], found["failed"], found["ignored"]) == (1, 1, 2, 1)
        failed = [one for one in found["each"] if one["outcome"] == "failed"]
        assert {one["photo"] for one in failed} == {str(photos / "closed.png"), str(photos / "trips" / "closed")}
        assert all("Permission denied" in one["reason"] for one in failed)


@pytest.mark.usefixtures("untouched")
def test_links_are_photos_of_their_own(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two paths of one photo both get outputs; the link stays one."""
    album = tmp_path / "album"
    album.mkdir()
    lake = photos / "trips" / "Zürich" / "lake.jpg"
    (album / "one.jpg").symlink_to(lake)
    (album / "two.jpg").symlink_to(lake)
    assert run("alone", lake, album, "-o", tmp_path / "out", "--json") == 0
    assert told(capsys)["photos"] == 3
    assert files_in(tmp_path / "out") == ["lake.jpg", "one.jpg", "two.jpg"]
    assert (album / "one.jpg").is_symlink()


def test_hidden_photos_are_taken_and_the_rest_counted(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hidden files and folders hold photos as others do; what is no photo is counted, and a pipe is not waited for."""
    lake = (photos / "trips" / "Zürich" / "lake.jpg").read_bytes()
    (photos / ".cache").mkdir()
    (photos / ".cache" / "one.jpg").write_bytes(lake)
    (photos / ".two.jpg").write_bytes(lake)
    (photos / ".DS_Store").write_bytes(b"no photo")
    os.mkfifo(photos / "pipe.jpg")
    assert run("alone", photos, "-o", tmp_path / "out", "--json") == 0
    found = told(capsys)
    assert (found["photos"], found["ignored"]) == (4, 3)
    expected = [".cache/one.jpg", ".two.jpg", "anna.png", "trips/Zürich/lake.jpg"]
    assert files_in(tmp_path / "out") == expected


def test_names_that_cannot_be_told_fail_alone(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that is no UTF-8 cannot stand in a file: with --names that photo fails, with the cure; else it is done."""
    foul = photos / os.fsdecode(b"caf\xe9.png")
    foul.write_bytes((photos / "anna.png").read_bytes() + b"\0")
    assert run("gradient", photos, "-o", tmp_path / "named", "--names", "--json") == 1
    found = told(capsys)
    (failed,) = (one for one in found["each"] if one["outcome"] == "failed")
    assert failed["photo"] == str(foul) and "leave out --names" in failed["reason"]
    assert files_in(tmp_path / "named") == ["anna.png.safetensors", "trips/Zürich/lake.jpg.safetensors"]
    assert run("gradient", photos, "-o", tmp_path / "asked") == 0
    assert len(files_in(tmp_path / "asked")) == 3


@pytest.mark.parametrize("command", ["gradient", "alone"])
def test_an_unexpected_error_fails_its_photo_alone(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """An error that nobody foresaw is told with its kind, and the other photos are done."""
    name = {"gradient": "gradients", "alone": "alone"}[command]
    work, anna = getattr(Device, name), (photos / "anna.png").read_bytes()

    def stumbling(self: Device, data: bytes, **more: Any) -> Any:
        if data == anna:
            raise ZeroDivisionError("nobody thought of that")
        return work(self, data, **more)

    monkeypatch.setattr(Device, name, stumbling)
    assert run(command, photos, "-o", tmp_path / "out", "--json") == 1
    found = told(capsys)
    assert (found["failed"], found["no_face"]) == (1, 1)
    assert "unexpected ZeroDivisionError('nobody thought of that')" in [one.get("reason") for one in found["each"]]
    assert len(files_in(tmp_path / "out")) == 1


def test_files_tell_no_more_than_their_content(photos: Path, tmp_path: Path) -> None:
    """Gradient files are their owner's alone to read, and the times of one run's are equal; outputs have the photo's
    own mode, whatever the umask.
    """
    (photos / "anna.png").chmod(0o640)
    (photos / "trips" / "Zürich" / "lake.jpg").chmod(0o604)
    before = os.umask(0o022)
    try:
        assert run("gradient", photos, "-o", tmp_path / "asked") == 0
        assert run("alone", photos, "-o", tmp_path / "out") == 0
    finally:
        os.umask(before)
    asked = [path.stat() for path in (tmp_path / "asked").iterdir()]
    assert [one.st_mode & 0o777 for one in asked] == [0o600, 0o600]
    assert len({one.st_mtime_ns for one in asked}) == 1
    modes = [(tmp_path / "out" / name).stat().st_mode & 0o777 for name in ("anna.png", "trips/Zürich/lake.jpg")]
    assert modes == [0o640, 0o604]


@pytest.mark.parametrize("command", ["gradient", "apply", "alone"])
@pytest.mark.parametrize("place", ["out", "out/below", "closed"])
def test_an_output_that_cannot_be_is_told_at_once(
    photos: Path,
    asked: list[object],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    place: str,
) -> None:
    """Where the output's folder is a file, or closed to us, nothing is computed, and the file stays."""
    (tmp_path / "out").write_text("mine")
    real = os.open

    def opened(path: Any, *rest: Any, **more: Any) -> int:
        if Path(path).parent == tmp_path / "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *rest, **more)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(Device, "_look", lambda *_: pytest.fail("computed"))
    capsys.readouterr()
    assert run(command, photos, *asked, "-o", tmp_path / place) == 2
    printed = capsys.readouterr()
    assert "cannot be written to" in printed.err and "give another place with -o" in printed.err and not printed.out
    assert (tmp_path / "out").read_text() == "mine"
