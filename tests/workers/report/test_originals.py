"""The page never holds an original's pixels, unless it was asked for them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apf.faces.alignment import CROP, align, alignment
from tests.workers.report.albums import FACE, Album, all_pictures, pixels, records
from workers.core.records import Outcome

#: Mean levels by which a JPEG of a picture may differ from it; its negative differs by 60 and more.
NEAR = 6.0


def distance(shown: np.ndarray, picture: np.ndarray) -> float:
    """Mean levels between two pictures, both brought to one small size."""
    one, other = (small(pixels.tobytes(), pixels.shape) for pixels in (shown, picture))
    return float(np.abs(one - other).mean())


@lru_cache(maxsize=512)
def small(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    picture = Image.fromarray(np.frombuffer(data, np.uint8).reshape(shape))
    return np.asarray(picture.resize((40, 30), Image.Resampling.BOX)).astype(int)


def nearest(shown: np.ndarray, picture: np.ndarray) -> float:
    """As `distance`; of a face's cut-out, to the picture's face."""
    if shown.shape[:2] == (CROP, CROP):
        picture = np.rint(align(picture, alignment(FACE.landmarks)).transpose(1, 2, 0) * 255).astype(np.uint8)
    return distance(shown, picture)


def large(seed: int) -> np.ndarray:
    """One that the page reduces for its grid and for its large view."""
    return pixels(seed, 1300, 1700)


@pytest.mark.parametrize("count", [3, 51], ids=["in the page", "in a folder"])
def test_every_picture_is_of_what_is_published(count: int, tmp_path: Path) -> None:
    """Each picture, of the grid, alone, and of a face, is the output's; none resembles an original or a difference."""
    album = Album.new()
    originals = [album.photo(f"{i:02}.png", before=large(i) if i < 2 else None) for i in range(count)]
    written = album.report(tmp_path / "page.html")
    shown = all_pictures(written.page)
    assert len(shown) == 3 * count  # two of the photo, one of its face
    assert (written.folder is None) == (count == 3)
    for picture in shown:
        assert min(nearest(picture, 255 - original) for original in originals) < NEAR
        assert min(nearest(picture, original) for original in originals) > 2 * NEAR


def test_originals_and_differences_come_only_when_asked_for(tmp_path: Path) -> None:
    """Then each photo also has the source, twice, its face, and ten times the difference, and the page says so."""
    album = Album.new()
    original = album.photo("a.png", before=large(1))
    plain = album.report(tmp_path / "plain.html").page
    full = album.report(tmp_path / "full.html", with_originals=True).page
    images = records(full)["a.png"]["images"]
    assert set(images) == {"thumb", "view", "before-thumb", "before", "difference"}
    assert set(records(full)["a.png"]["faces"][0]["images"]) == {"after", "before"}
    assert set(records(plain)["a.png"]["images"]) == {"thumb", "view"}
    assert set(records(plain)["a.png"]["faces"][0]["images"]) == {"after"}
    like_original = [picture for picture in all_pictures(full) if nearest(picture, original) < NEAR]
    assert len(like_original) == 3
    assert sorted(picture.shape[1] for picture in like_original) == [CROP, 480, 1200]
    difference = np.minimum(10 * np.abs(255 - 2 * original.astype(int)), 255).astype(np.uint8)
    assert min(distance(picture, difference) for picture in all_pictures(full)) < NEAR
    assert "This page holds unprotected photos" in full.read_text()
    assert "No original is in this page" in plain.read_text()


def test_a_page_without_originals_takes_an_older_ones_originals_away(tmp_path: Path) -> None:
    """Written over a page with originals, in one file or with a folder, it leaves none of them behind."""
    page = tmp_path / "page.html"
    album = Album.new()
    originals = [album.photo(f"{i:02}.png") for i in range(51)]
    album.report(page, with_originals=True)
    assert any(nearest(picture, originals[0]) < NEAR for picture in all_pictures(page))
    album.report(page, limit=3)
    assert not (tmp_path / "page_files").exists()
    assert not any(nearest(picture, original) < NEAR for picture in all_pictures(page) for original in originals)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_an_object_that_no_worker_wrote_is_not_shown(tmp_path: Path) -> None:
    """Somebody put the original itself where the output should be: without a worker's marks it stays out."""
    album = Album.new()
    album.photo("a.png", published=None)
    album.destination.put("a.png", album.source.get("a.png").data)
    page = album.report(tmp_path / "page.html").page
    assert all_pictures(page) == []
    assert "no worker wrote" in records(page)["a.png"]["notes"][0]


def test_a_photo_without_a_face_is_shown_as_published_and_says_so(tmp_path: Path) -> None:
    """Its pixels are public already, unprotected: it is shown, with a warning, and with originals nothing is added."""
    album = Album.new()
    original = album.photo("a.png", Outcome.no_face, published=Outcome.no_face)
    page = album.report(tmp_path / "page.html", with_originals=True).page
    assert [nearest(picture, original) < NEAR for picture in all_pictures(page)] == [True, True]
    record = records(page)["a.png"]
    assert (record["outcome"], record["faceCount"], record["measured"]) == ("no_face", 0, False)
    assert "a face in it is not protected" in record["notes"][0]
