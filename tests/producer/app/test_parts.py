"""Parts of the app by themselves: folders, uploads, zips, words and records."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image
from skimage.data import astronaut
from starlette.types import ASGIApp, Message, Scope

from producer.app.albums import Albums
from producer.app.folders import Folders, save
from producer.app.helper import Helper
from producer.app.people import LEFT_OUT, SOMEBODY_ELSE, counted, left_out, merged, moved, rows
from producer.app.runner import Runner
from producer.app.server import Pages
from producer.app.uploads import keep, key_of
from producer.app.views import checked, photos, split
from producer.app.words import plain
from producer.app.zipping import PIECE, zipped
from tests.command import apf_json
from tests.waiting import until
from workers.config.settings import Settings
from workers.core.records import Outcome, PhotoReport
from workers.errors import BadRequest, NotFound


def test_only_folders_below_the_roots_are_shown(tmp_path: Path) -> None:
    """Neither what lies above nor what a symbolic link leads to; the way back ends at the root."""
    for name in ("home/album/deep", "other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "home" / "link").symlink_to(tmp_path / "other")
    (tmp_path / "home" / ".hidden").mkdir()
    (tmp_path / "home" / os.fsdecode(b"old \xff")).mkdir()
    for name in ("a.jpg", "b.HEIC", "notes.txt"):
        (tmp_path / "home" / "album" / name).touch()
    places = Folders([tmp_path / "home"])
    found = places.look(str(tmp_path / "home" / "album"))
    assert (found.photos, [one.name for one in found.folders], [one.name for one in found.way]) == (
        2, ["deep"], ["home", "album"],
    )  # fmt: skip
    assert [one.name for one in places.look(str(tmp_path / "home")).folders] == ["album"]
    for outside in ("other", "home/link", "home/../other", "home/none"):
        with pytest.raises(BadRequest):
            places.look(str(tmp_path / outside))


def test_saving_replaces_nothing(tmp_path: Path) -> None:
    """Each time a new folder, photos under their own names."""
    (tmp_path / "from" / "sub").mkdir(parents=True)
    (tmp_path / "from" / "sub" / "a.jpg").write_bytes(b"one")
    places = [save(["sub/a.jpg"], tmp_path / "from", tmp_path, "album protected") for _ in range(3)]
    assert [place.name for place in places] == ["album protected", "album protected (2)", "album protected (3)"]
    assert all((place / "sub" / "a.jpg").read_bytes() == b"one" for place in places)


@pytest.mark.parametrize("name", ["../a.jpg", "a/../b.jpg", "/", "", ".hidden.jpg", "x/.apf/a.jpg", "a\n.jpg", "a.exe"])
def test_uploads_cannot_lie_anywhere_else(name: str) -> None:
    """Nor be hidden, nor anything but a photo by their names."""
    with pytest.raises(BadRequest):
        key_of(name)


def test_uploads_of_one_name_do_not_replace_each_other(tmp_path: Path) -> None:
    """Another photo gets a number, and the same one twice is kept once."""
    place = tmp_path / "photos"
    names = [keep(place, "/holiday/a.jpg", data) for data in (b"one", b"two", b"one", b"two")]
    assert names == ["holiday/a.jpg", "holiday/a (2).jpg", "holiday/a.jpg", "holiday/a (2).jpg"]
    assert (place / "holiday" / "a.jpg").read_bytes() == b"one"


def test_a_zip_is_whole_and_made_in_pieces(tmp_path: Path) -> None:
    """No piece is larger than what was read at once, but for headers; names beyond ASCII survive."""
    photos = {"a.jpg": b"x" * (3 * PIECE + 7), "süß/b.jpg": b"y"}
    for name, data in photos.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    pieces = list(zipped(photos, tmp_path, "album"))
    assert max(map(len, pieces)) < PIECE + 1000
    with zipfile.ZipFile(io.BytesIO(b"".join(pieces))) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(f"album/{name}") for name in photos} == photos


def test_a_damaged_photo_is_told_in_plain_words() -> None:
    """By the reason that a worker gives."""
    said = plain("JPEG photo, its pixels cannot be decoded: image file is truncated", transient=False)
    assert said.startswith("The file is damaged.") and said.endswith("press “Try again”.")


def test_records_survive_and_foreign_names_are_refused(tmp_path: Path) -> None:
    """What is kept is read by the next process; a record that a newer version wrote, too."""
    albums = Albums(tmp_path / "work")
    album = albums.change(albums.new("Ann").id, recipe="light", batch="b")
    again = Albums(tmp_path / "work")
    assert list(again.all()) == [album]
    assert (tmp_path / "work").stat().st_mode & 0o077 == 0
    record = albums.place(album.id) / "album.json"
    record.write_text(record.read_text().replace("{", '{"newer": 1, ', 1))
    assert again.get(album.id) == album
    for name in ("../x", "nothing", ""):
        with pytest.raises(BadRequest):
            albums.place(name)
    albums.remove(album.id)
    with pytest.raises(NotFound, match="first page"):
        albums.get(album.id)


@pytest.mark.parametrize(
    ("faces", "at"),
    [([], 50), ([{"box": [0.1, 0, 0.2, 0.2]}], 20), ([{"box": [0.1, 0, 0.1, 0.1]}, {"box": [0.6, 0, 0.4, 0.4]}], 80)],
)
def test_the_slider_starts_at_the_largest_face(faces: list[dict[str, list[float]]], at: int) -> None:
    """Both of its halves are seen before anybody moves it."""
    assert split({"faces": faces}) == at


def test_a_check_or_a_look_that_fails_is_told_and_not_tried_for_ever(tmp_path: Path) -> None:
    """The page gets the reason, once; a detector that is missing serves as one. Loading the page tries again."""
    albums = Albums(tmp_path / "work")
    album = albums.new("Ann")
    helper = Helper(albums, Settings(detector=str(tmp_path / "nothing")))
    for folder in ("photos", "protected"):
        albums.place(album.id, folder).mkdir()
    helper.start()
    until(lambda: helper.looks(album)["done"], 60, "the looks have ended")
    assert "nothing" in helper.looks(album)["error"] and helper.looks(album)["done"]
    until(lambda: helper.check(album)["done"], 60, "the check has ended")
    said = checked(helper.check(album), ())
    assert said["done"] and (said["nothing"] or said["error"])
    helper.again(album)
    assert not helper.looks(album)["done"]


def test_names_that_would_turn_the_text_around_are_spelt_out() -> None:
    """As in the report."""
    (photo,) = photos([PhotoReport(key="safe\u202egnp.jpg", etag="e", outcome=Outcome.no_face)])
    assert photo["name"] == "safe\\u{202e}gnp.jpg" and photo["no_face"]


def test_faces_move_between_rows_and_what_is_gone_changes_nothing() -> None:
    """A row that is not there any more, as in a page that was open in two windows, takes no face out of the check."""
    people = {"a": "Person 1", "b": "Person 1", "c": "Person 2"}
    assert moved(people, {"c", "gone"}, "Person 1") == {"a": "Person 1", "b": "Person 1", "c": "Person 1"}
    assert moved(people, {"a"}, SOMEBODY_ELSE) == {**people, "a": "Person 3"}
    assert moved(people, {"a"}, "Person 7") == people
    out = moved(people, {"a"}, LEFT_OUT)
    assert counted(out) == {"b": "Person 1", "c": "Person 2"} and left_out(out) == ["a"]
    assert rows(out) == {"Person 1": ["b"], "Person 2": ["c"]}


def test_what_the_user_has_sorted_is_kept_when_the_program_groups_anew() -> None:
    """New faces join the row of most of their group; a new group gets a row of its own; rows stay in order."""
    mine = {"a": "Person 1", "b": "Person 2", "c": LEFT_OUT, "gone": "Person 9"}
    found = merged({"a": "Person 01", "b": "Person 01", "c": "Person 01", "d": "Person 02", "e": "Person 01"}, mine)
    assert {face: found[face] for face in "abc"} == {"a": "Person 1", "b": "Person 2", "c": LEFT_OUT}
    assert found["e"] in ("Person 1", "Person 2") and found["d"] == "Person 10" and "gone" not in found
    assert list(rows(found)) == ["Person 1", "Person 2", "Person 10"]
    assert merged({"a": "Person 1"}, {}) == {"a": "Person 1"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte, in memory."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting takes root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def ask(app: ASGIApp, method: str, path: str, body: bytes = b"") -> tuple[int, str]:
    """What the application answers; what it raises besides is the server's to log."""
    sent: list[Message] = []
    name, _, query = path.partition("?")
    scope: Scope = {"type": "http", "method": method, "path": name, "query_string": query.encode(), "headers": []}

    async def receive() -> Message:
        return {"type": "http.request", "body": body}

    async def send(message: Message) -> None:
        sent.append(message)

    with suppress(Exception):
        asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent).decode()


def fill(place: Path) -> None:
    with suppress(OSError), (place / "filler").open("wb", buffering=0) as file:
        while file.write(b"x" * 1024):
            pass


def test_a_full_disk_is_told_in_plain_words_and_no_work_is_begun_again(small_disk: Path) -> None:
    """By a page, by what the browser hands over, and by the check, which is not run at every look; then all goes on."""
    albums = Albums(small_disk / "work")
    album = albums.change(albums.new("Ann").id, batch="b")
    albums.place(album.id, "protected").mkdir()
    pages = Pages(albums, Settings(), Folders([small_disk]), lambda: None)
    app = pages.app()
    pages.helper.start()
    fill(small_disk)
    status, text = ask(app, "POST", "/albums")
    assert status == 500 and "The disk is full: free some space" in text
    assert len(list(albums.root.glob("2*"))) == 1
    status, text = ask(app, "PUT", f"/albums/{album.id}/photos?name=a.jpg", b"x" * 10_000)
    assert json.loads(text) == {"error": "The disk is full: free some space"}
    until(lambda: pages.helper.check(album)["done"], 60, "the check has ended")
    assert pages.helper.check(album)["error"] == "The disk is full: free some space"
    (small_disk / "filler").unlink()
    pages.helper.again(album)
    until(lambda: pages.helper.check(album)["done"], 60, "the check has ended")
    assert "disk" not in pages.helper.check(album).get("error", "")


def test_what_nobody_foresaw_is_told_on_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the way to the first page, and for the browser's own requests as JSON."""
    pages = Pages(Albums(tmp_path / "work"), Settings(), Folders([tmp_path]), lambda: None)
    monkeypatch.setattr(pages.albums, "new", lambda name: 1 / 0)
    status, text = ask(pages.app(), "POST", "/albums")
    assert status == 500 and "please report it" in text and "To the first page" in text


def test_a_folder_that_was_away_is_compared_once_it_is_back(tmp_path: Path) -> None:
    """Neither the check's error nor a photo without its original is kept; the failure's cure names the drive."""
    albums = Albums(tmp_path / "work")
    folder = tmp_path / "stick"
    folder.mkdir()
    Image.fromarray(astronaut()[:300, 80:380]).save(folder / "a.jpg", quality=95)
    album = albums.new("Stick", folder)
    done = apf_json("protect", folder, albums.destination(album), "--recipe", "light")
    album, helper = albums.change(album.id, batch=done["batch"]), Helper(albums, Settings())
    helper.start()
    folder.rename(tmp_path / "away")
    assert "before" not in helper.card(album, 0)["images"]
    until(lambda: helper.check(album)["done"], 60, "the check has ended")
    assert "does not exist" in helper.check(album)["error"]
    (tmp_path / "away").rename(folder)
    helper.again(album)
    assert {"before", "view"} <= helper.card(album, 0)["images"].keys()
    until(lambda: helper.check(album)["done"], 60, "the check has ended")
    assert "nothing" in helper.check(album)
    assert "Connect its drive" in plain(f"folder {folder} is gone: mount it, or correct its name", transient=False)


def test_an_address_that_is_none_is_told_on_a_page(tmp_path: Path) -> None:
    """With the way to the first page."""
    pages = Pages(Albums(tmp_path / "work"), Settings(), Folders([tmp_path]), lambda: None)
    status, text = ask(pages.app(), "GET", "/albums/x/y/z")
    assert status == 404 and "There is no such page" in text and "To the first page" in text


def test_a_button_that_is_pressed_twice_begins_once(tmp_path: Path) -> None:
    """As by a double click: the batch of the first press is the one that is worked on. Another look has to wait."""
    albums = Albums(tmp_path / "work")
    album = albums.new("Ann")
    runner = Runner(albums, Settings())
    runner.begin(album, "light")
    batch = albums.get(album.id).batch
    runner.begin(album, "light")
    assert albums.get(album.id).batch == batch and runner._jobs.qsize() == 1
    with pytest.raises(BadRequest, match="Stop"):
        runner.begin(album, "strong")
    assert albums.get(album.id).recipe == "light"
