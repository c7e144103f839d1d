"""The tutorial for a person with an album is true: its commands run, in a home of their own, and print what it says."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import insightface
import pytest
import skimage.data
from PIL import Image

from tests import tutorials
from tests.conftest import RedisServer, S3Server
from tests.tutorials import Command
from tests.workers.report.albums import all_pictures, records

PAGE = Path(__file__).parents[1] / "docs" / "album.md"
SIX_FACES = Path(insightface.__file__).parent / "data" / "images" / "t1.jpg"

pytestmark = pytest.mark.timeout(600)


#: From here on the page needs a queue and a bucket.
BUCKET = "## An album in a bucket"


def part(*, bucket: bool) -> list[tutorials.Command]:
    """The commands before that heading, or from it on."""
    text = PAGE.read_text()
    line = text.count("\n", 0, text.index(BUCKET)) + 1
    return [command for command in tutorials.commands(PAGE) if (command.line > line) is bucket]


def environment(home: Path) -> dict[str, str]:
    """A user's, with `apf` on the path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("APF_", "AWS_"))}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # Twenty faces: the other tutorials take the steps.
    return {**kept, "HOME": str(home), "PATH": path, "LC_ALL": "C.UTF-8", "APF_STEPS": "0"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The album that the tutorial speaks of, and the backup beside it."""
    folder = tmp_path_factory.mktemp("home")
    album, backup = folder / "album", folder / "backup"
    album.mkdir()
    backup.mkdir()
    astronaut = Image.fromarray(skimage.data.astronaut())
    (album / "friends.jpg").write_bytes(SIX_FACES.read_bytes())
    astronaut.save(album / "portrait.jpg", quality=92)
    astronaut.crop((60, 0, 460, 400)).save(backup / "holiday.jpg", quality=92)
    (album / "holiday.jpg").write_bytes((backup / "holiday.jpg").read_bytes()[:9000])
    Image.fromarray(skimage.data.coffee()).save(album / "lake.jpg")
    (album / "notes.txt").write_text("no photo")
    return folder


@pytest.fixture(scope="module")
def ran(home: Path) -> list[tutorials.Ran]:
    """The whole page, run once, from top to bottom."""
    return tutorials.run(part(bucket=False), environment=environment(home), folder=home, timeout_s=500)


def test_every_command_prints_what_the_page_says(ran: list[tutorials.Ran]) -> None:
    """Line by line, where the page shows an output."""
    tutorials.check(PAGE, ran)
    assert sum(bool(one.command.expected) for one in ran) >= 9


def test_every_command_ends_as_it_should(ran: list[tutorials.Ran]) -> None:
    """All succeed but the first run and the list of failures, which say by status 1 that a photo failed."""
    ended = {one.command.text: one.status for one in ran}
    assert [one.status for one in ran].count(1) == 2
    assert ended["apf status ~/album-protected --failed"] == 1
    assert ended["apf protect ~/album ~/album-protected --recipe strong"] == 0
    assert set(ended.values()) <= {0, 1}


def test_the_album_is_as_the_page_promises(home: Path, ran: list[tutorials.Ran]) -> None:
    """Sources are untouched, each output opens at its source's size, and nothing but photos was written there."""
    assert (home / "album" / "friends.jpg").read_bytes() == SIX_FACES.read_bytes()
    outputs = sorted(path.name for path in (home / "album-protected").iterdir() if path.name != ".apf")
    assert outputs == ["friends.jpg", "holiday.jpg", "lake.jpg", "portrait.jpg"]
    for name in outputs:
        with Image.open(home / "album" / name) as before, Image.open(home / "album-protected" / name) as after:
            assert before.size == after.size
            assert not after.getexif()


def test_the_reports_are_as_the_page_promises(home: Path, ran: list[tutorials.Ran]) -> None:
    """Both have a figure for each face; only the private one has originals; the failed photo has its cure."""
    public, private = records(home / "report.html"), records(home / "private.html")
    assert [record["outcome"] for record in public.values()] == ["protected", "failed", "no_face", "protected"]
    assert "backup" in public["holiday.jpg"]["cure"]
    for record in (public["friends.jpg"], private["friends.jpg"]):
        assert len(record["faces"]) == 6
        assert all(face["similarity"] < 0.9 for face in record["faces"])
        assert 28 < record["psnr"] < 40
    assert "before" not in public["friends.jpg"]["images"]
    assert {"before", "difference"} <= set(private["friends.jpg"]["images"])
    # Two of each photo, and one of each face; with originals five, and two.
    assert len(all_pictures(home / "report.html")) == 3 * 2 + 7
    assert len(all_pictures(home / "private.html")) == 2 + 2 * 5 + 2 * 7


def test_an_album_in_a_bucket(home: Path, redis_server: RedisServer, swift: S3Server, tmp_path: Path) -> None:
    """The page's last commands, against a real queue, a real worker and a real S3 server."""
    album, protected = swift.new_bucket("album"), swift.new_bucket("album-protected")
    for name in ("portrait.jpg", "lake.jpg"):
        swift.client.put_object(Bucket=album, Key=name, Body=(home / "album" / name).read_bytes())
    names = {
        "redis://localhost:6379/0": redis_server.url,
        "http://localhost:8333": swift.endpoint_url,
        "s3://album-protected": f"s3://{protected}",
        "s3://album ": f"s3://{album} ",
        "s3://album-ledger": f"s3://{swift.new_bucket('album-ledger')}",
    }
    commands = [Command(tutorials.replaced(one.text, names), one.expected, one.line) for one in part(bucket=True)]
    credentials = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    ran = tutorials.run(commands, environment={**environment(home), **credentials}, folder=tmp_path, timeout_s=300)
    tutorials.check(PAGE, ran)
    assert {one.status for one in ran} == {0}
    published = {item["Key"] for item in swift.client.list_objects_v2(Bucket=protected)["Contents"]}
    assert {key for key in published if not key.startswith(".apf/")} == {"lake.jpg", "portrait.jpg"}
    assert records(home / "bucket.html").keys() == {"lake.jpg", "portrait.jpg"}


def test_the_pages_figures_of_protection_are_the_readmes() -> None:
    """The two numbers that a person must not miss stand in both pages, and are the same."""
    readme = (PAGE.parents[1] / "README.md").read_text()
    assert "| **`standard`** | 91 / 98 |" in readme
    text = " ".join(PAGE.read_text().split())
    assert "91 % of pairs were no longer matched" in text and "98 % where it accepts one in a thousand" in text


def test_pictures_and_links_of_the_page_are_there() -> None:
    """What the page shows and points to exists."""
    assert (PAGE.parent / "report.jpg").stat().st_size < 300_000
    assert "## What it protects against, and what not" in (PAGE.parents[1] / "README.md").read_text()
