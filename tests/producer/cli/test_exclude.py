"""`--exclude`, `.apfignore` and what is left out, as users and programs meet them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import skimage.data
from PIL import Image

from producer import Client
from producer.events.routes import Ignored, Route, Routes
from tests.command import apf, apf_json
from tests.conftest import RedisServer
from tests.faults.world import World, closing_world, photos
from tests.workers.schedules.world import World as Scheduled
from tests.workers.schedules.world import world as scheduled  # noqa: F401  a fixture
from workers.batches.create import find_ledger
from workers.errors import BadRequest


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """A photo with its shadow of macOS, thumbnails of a NAS, and photos that patterns exclude."""
    folder = tmp_path / "album"
    photo = Image.fromarray(skimage.data.coffee())
    for name in ("IMG_1.jpg", "@eaDir/IMG_1.jpg/SYNOPHOTO_THUMB_M.jpg", "drafts/a.jpg", "b.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        photo.save(folder / name)
    (folder / "._IMG_1.jpg").write_bytes(bytes.fromhex("0005160700020000") + b"Mac OS X        " + bytes(60))
    (folder / ".apfignore").write_text("# mine\ndrafts/\n")
    return folder


def test_a_run_leaves_out_what_is_excluded_and_ends_well(album: Path, tmp_path: Path) -> None:
    """Shadows and thumbnails, the source's own file and --exclude: status 0, and totals add up."""
    out = tmp_path / "out"
    result = apf_json("protect", album, out, "--exclude", "*.png", "--exclude", "*.webp", "--recipe", "light")
    assert (result["photos"], result["failed"], result["ignored"], result["excluded"]) == (1, 0, 5, 4)
    assert (result["left_out"], result["left_out_first"]) == (0, [])
    assert sorted(path.name for path in out.rglob("*.*g") if ".apf" not in path.parts) == ["IMG_1.jpg"]
    assert "5 other files ignored (4 of them by patterns)" in apf("status", out).stderr


def test_what_is_left_out_ends_in_status_1_and_is_named(album: Path, tmp_path: Path) -> None:
    """Names that are no UTF-8 or have a backslash are in --json, on the terminal and in `apf status`."""
    jpeg = (album / "IMG_1.jpg").read_bytes()
    for name in (b"caf\xe9.jpg", b"back\\slash.jpg"):
        Path(os.fsdecode(os.fsencode(album) + b"/" + name)).write_bytes(jpeg)
    out = tmp_path / "out"
    result = apf_json("protect", album, out, "--recipe", "light", code=1)
    assert (result["photos"], result["failed"], result["left_out"]) == (2, 0, 2)
    assert [one["key"] for one in result["left_out_first"]] == ["back\\slash.jpg", "caf\\xe9.jpg"]
    said = apf("status", out, code=1).stderr
    assert "2 left out" in said
    assert "left out back\\slash.jpg: it has a backslash in its name: rename it" in said
    assert (
        "'caf\\\\xe9.jpg'\t0 tries\tpermanent\tleft out: its name is not"
        in apf("status", out, "--failed", code=1).stdout
    )


def test_a_malformed_pattern_is_refused(album: Path, tmp_path: Path) -> None:
    """No batch is made, and the pattern is named."""
    assert "'!' is no pattern" in apf("protect", album, tmp_path / "out", "--exclude", "!", code=2).stderr
    (album / ".apfignore").write_bytes(b"\xff")
    assert ".apfignore in file://" in apf("protect", album, tmp_path / "out", code=2).stderr


@pytest.fixture
def world(tmp_path: Path, redis_server: RedisServer) -> Iterator[World]:
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    place = World(tmp_path, redis_server, (tmp_path / "in").as_uri(), (tmp_path / "out").as_uri(), photos(3))
    with closing_world(place):
        yield place


def test_a_client_excludes_of_a_whole_source_alone(world: World) -> None:
    """The batch that a worker plans has the patterns; with named photos they are refused."""
    client = Client(world.settings)
    sent = client.submit(world.source_url, world.destination_url, exclude=["*.png"])
    assert find_ledger(world.destination_url, world.settings).read_batch(sent.batch).exclude == ("*.png",)
    with pytest.raises(BadRequest, match="exclude is of a whole source"):
        client.submit(world.source_url, world.destination_url, photos=["a.jpg"], exclude=["*.png"])


@pytest.mark.parametrize("key", ["ann/._1.jpg", "@eaDir/1.jpg", ".Trash-1000/files/1.jpg"])
def test_events_of_what_systems_leave_behind_are_left_alone(key: str) -> None:
    """A NAS that syncs into a bucket sends events of its thumbnails, too."""
    routes = Routes([Route("s3://uploads", "s3://public")])
    assert routes.find("uploads", key) is Ignored.excluded
    assert not isinstance(routes.find("uploads", "ann/1.jpg"), Ignored)


class TestSchedules:
    def test_a_schedule_leaves_out_what_is_excluded(self, scheduled: Scheduled) -> None:  # noqa: F811
        """Its patterns, the default list and the source's own file, as it is at each run."""
        scheduled.add(exclude=("b*",))
        scheduled.photos("a", "b", "c", "._a")
        scheduled.source.put(".apfignore", b"c.jpg\n")
        assert scheduled.run() == ["a"]
        scheduled.source.delete(".apfignore")
        assert scheduled.run(hours=1) == ["a", "c"]

    def test_an_excluded_photo_is_no_new_one(self, scheduled: Scheduled) -> None:  # noqa: F811
        """A schedule that waits for new photos is not woken by what it would leave out."""
        scheduled.add(on_change=("new",), exclude=("b*",))
        scheduled.photos("a")
        assert scheduled.run() == ["a"]
        scheduled.now = scheduled.now.replace(hour=20)
        scheduled.photos("b", "._c")
        assert scheduled.run(hours=1) == ["a"]
        assert len(scheduled.ledger.batches()) == 1
        scheduled.photos("d")
        scheduled.run(hours=1)
        assert len(scheduled.ledger.batches()) == 2

    def test_what_a_run_left_out_is_noted(self, tmp_path: Path, scheduled: Scheduled) -> None:  # noqa: F811
        """Nobody looks at the batches of a schedule one by one."""
        (tmp_path / "a.jpg").write_bytes(b"face")
        (tmp_path / "b\\.jpg").write_bytes(b"face")
        scheduled.settings = scheduled.settings.model_copy(update={"allowed_urls": f"{tmp_path} memory://out"})
        scheduled.add()
        scheduled.change(source=tmp_path.as_uri())
        assert scheduled.run() == ["a"]
        scheduled.tick()
        assert scheduled.state().note == "1 left out: apf status says what"

    def test_commands_keep_change_and_drop_the_patterns(self, tmp_path: Path) -> None:
        """`add --exclude`, `change --exclude` and `change --exclude-nothing`; a malformed one is refused."""
        (tmp_path / "in").mkdir()
        where = {"APF_LEDGER_URL": str(tmp_path / "ledger")}
        repository = tmp_path / "ledger"
        add = ["schedule", "add", "s", str(tmp_path / "in"), str(tmp_path / "out"), "--every", "1h"]
        assert "is no pattern" in apf(*add, "--exclude", "!", code=2, **where).stderr
        apf(*add, "--exclude", "*.png", "--exclude", "x/", **where)
        kept = [path for path in repository.rglob("*.json") if b'"exclude"' in path.read_bytes()]
        assert kept
        assert '"*.png"' in kept[0].read_text()
        apf("schedule", "change", "s", "--exclude", "*.gif", **where)
        assert '"*.gif"' in kept[0].read_text()
        apf("schedule", "change", "s", "--exclude-nothing", **where)
        assert '"exclude"' not in kept[0].read_text()


def test_the_producer_does_without_the_library_until_something_is_excluded() -> None:
    """Commands start as quickly as before."""
    code = "import sys, workers.batches.plan, producer.cli.batches; sys.exit('pathspec' in sys.modules)"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0
