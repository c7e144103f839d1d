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
from tests.workers.album.albums import all_pictures, records

PAGE = Path(__file__).parents[1] / "docs" / "album.md"
SIX_FACES = Path(insightface.__file__).parent / "data" / "images" / "t1.jpg"

pytestmark = pytest.mark.timeout(600)


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
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("APF_", "AWS_"))}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**kept, "HOME": str(home), "PATH": path, "LC_ALL": "C.UTF-8"}
    return tutorials.run(tutorials.commands(PAGE), environment=environment, folder=home, timeout_s=500)


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


def test_the_pages_figures_of_protection_are_the_readmes() -> None:
    """The two numbers that a person must not miss stand in both pages, and are the same."""
    readme = (PAGE.parents[1] / "README.md").read_text()
    assert "| published | 166 | 0 | 0 / 0 | 31 / 66 |" in readme
    text = " ".join(PAGE.read_text().split())
    assert "31 % of pairs were no longer matched" in text and "66 % where it accepts one in a thousand" in text


def test_pictures_and_links_of_the_page_are_there() -> None:
    """What the page shows and points to exists."""
    assert (PAGE.parent / "report.jpg").stat().st_size < 300_000
    assert "## What it protects against, and what not" in (PAGE.parents[1] / "README.md").read_text()
