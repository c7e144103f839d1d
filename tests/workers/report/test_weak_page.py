"""What the page says of faces that a juror still knows."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.workers.report.albums import Album, encoded, pixels, records
from tests.workers.report.conftest import Window, loaded
from workers.core.records import Outcome, Word
from workers.store.output_metadata import BATCH, FACES, OUTCOME, RECIPE, SOURCE_ETAG, WEAK

REASON = "1 of 2 faces is weak: a juror still knows it (--on-weak fail), so it is not published: protect it by ..."


def weak(album: Album, key: str, outcome: Outcome = Outcome.protected, likeness: float = 1.237) -> None:
    """A photo of two faces, of which one is weak, with the workers' mark; one that is `skipped` is as it was found."""
    words = (Word(likeness=0.4), Word(likeness=likeness)) if outcome is Outcome.protected else ()
    album.photo(key, outcome, words=words, weak=len(words) // 2)
    marks = {SOURCE_ETAG: album.reports[-1].etag, RECIPE: album.batch.recipe.id, BATCH: album.batch.id}
    marks |= {OUTCOME: "protected", FACES: "2", WEAK: "1"}
    album.destination.put(key, encoded(pixels(7)), metadata=marks)


@pytest.fixture
def album() -> Album:
    """Weak: one that is published, one that was before, and one that failed for it. Two others are not."""
    made = Album.new()
    weak(made, "a.png")
    weak(made, "b.png", Outcome.skipped)
    made.failed("c.png", REASON)
    made.reports[-1] = made.reports[-1].model_copy(update={"weak": 1, "words": (Word(likeness=1.5),)})
    made.photo("d.png")
    made.failed("e.png", "JPEG photo, its pixels cannot be decoded: truncated")
    return made


def test_weak_photos_are_marked_with_the_jurys_word(album: Album, tmp_path: Path) -> None:
    """The published ones by their mark, whichever batch made them; likenesses where this batch's report has them."""
    page = album.report(tmp_path / "page.html").page
    found = records(page)
    assert {key: record["weak"] for key, record in found.items()} == {
        "a.png": 1, "b.png": 1, "c.png": 1, "d.png": 0, "e.png": 0,
    }  # fmt: skip
    assert [found[key]["likenesses"] for key in ("a.png", "b.png", "c.png", "d.png")] == [[0.4, 1.24], [], [1.5], []]
    for key in ("a.png", "b.png"):
        assert "A juror still knows 1 of its 2 faces" in " ".join(found[key]["notes"])
    assert "stronger --recipe" in found["c.png"]["cure"]
    assert '2</span> <span class="what">weak: a juror still knows them' in page.read_text()


def test_the_page_says_who_the_jury_is_and_not_where_its_files_lie(album: Album, tmp_path: Path) -> None:
    """A guide's own word is told apart from an independent juror's."""
    recipe = album.batch.recipe.model_copy(update={"steps": 2, "guides": ("dlib",)})
    album.batch = album.batch.model_copy(update={"recipe": recipe})
    text = album.report(tmp_path / "page.html").page.read_text()
    assert "<dt>Jury</dt><dd>dlib, on which the filter itself worked" in text
    recipe = album.batch.recipe.model_copy(update={"jury": ("/srv/secret/arc.onnx", "probe")})
    album.batch = album.batch.model_copy(update={"recipe": recipe})
    text = album.report(tmp_path / "page.html").page.read_text()
    assert "<dt>Jury</dt><dd>arc.onnx, probe: recognisers that the filter did not work on" in text
    assert "/srv/secret" not in text


def test_without_weak_faces_the_page_says_nothing_of_them(tmp_path: Path) -> None:
    """No tile of zero, which would read like a promise; nor a jury where a recipe has none."""
    album = Album.new()
    album.photo("a.png")
    recipe = album.batch.recipe.model_copy(update={"steps": 0})
    album.batch = album.batch.model_copy(update={"recipe": recipe})
    text = album.report(tmp_path / "page.html").page.read_text()
    assert "still knows" not in text.split("<script>")[0]
    assert "<dt>Jury</dt>" not in text


def test_weak_photos_can_be_shown_alone(album: Album, window: Window, tmp_path: Path) -> None:
    """A button beside those of the outcomes; the photo alone tells what the jury saw."""
    page = window.open(album.report(tmp_path / "page.html").page)
    loaded(page)
    page.get_by_role("button", name="Weak faces3").click()
    expect(page.locator(".open")).to_have_count(3)
    expect(page.locator("#status")).to_have_text("3 photos")
    expect(page.locator(".figures .weak").first).to_have_text("1 weak")
    page.get_by_role("button", name="a.png").click()
    side = page.get_by_role("dialog").locator("#side")
    expect(side).to_contain_text("likeness 0.40, 1.24; known from 1 on")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Protected2").click()
    expect(page.locator(".open")).to_have_count(2)
