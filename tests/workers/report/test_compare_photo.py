"""One photo's figures, and what is said where there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import S3Server
from tests.workers.report.albums import Album, SeesOneFace, encoded, pixels, records
from workers.config.settings import Settings
from workers.core.records import Outcome
from workers.errors import StoreUnavailable
from workers.store import open_store


def of(album: Album, tmp_path: Path, **asked: Any) -> Any:
    """The record of the album's one photo."""
    return next(iter(records(album.report(tmp_path / "page.html", **asked).page).values()))


def test_psnr_similarity_and_box_are_those_of_the_photo(tmp_path: Path) -> None:
    """A photo whose face moved by 8 levels everywhere: 30.1 dB by hand, and a box in parts of the photo."""
    album = Album.new()
    before = np.clip(pixels(1), 20, 200)
    album.photo("a.png", before=before, published=None)
    album.publish("a.png", before + 8, Outcome.protected, album.reports[0].etag)
    record = of(album, tmp_path)
    assert record["psnr"] == pytest.approx(20 * np.log10(255 / 8), abs=0.01)
    crop = before[:112, :112].astype(float)
    cosine = (crop * (crop + 8)).sum() / np.linalg.norm(crop) / np.linalg.norm(crop + 8)
    assert record["similarity"] == pytest.approx(cosine, abs=2e-3)
    assert record["faces"][0]["box"] == pytest.approx([15 / 200, 5 / 150, 82 / 200, 110 / 150], abs=1e-4)
    assert (record["width"], record["height"], record["measured"], record["notes"]) == (200, 150, True, [])


@pytest.mark.parametrize("how", ["gone", "changed", "whole source gone", "damaged"])
def test_without_its_source_a_photo_is_shown_with_boxes_and_the_reason(how: str, tmp_path: Path) -> None:
    """Faces are then found in the output; there is no number, and the page says why."""
    album = Album.new()
    album.photo("a.png")
    if how == "gone":
        album.source.delete("a.png")
    elif how == "changed":
        album.source.put("a.png", encoded(pixels(9)))
    elif how == "damaged":
        album.source.put("a.png", b"no photo")
        album.publish("a.png", pixels(3), Outcome.protected, album.source.head("a.png").etag)  # type: ignore[union-attr]
    else:
        album.batch = album.batch.model_copy(update={"source": (tmp_path / "nowhere").as_uri()})
    record = of(album, tmp_path, with_originals=True)
    assert record["notes"][0].startswith("Not measured: its source ")
    assert ("changed" in record["notes"][0]) == (how == "changed")
    assert (record["psnr"], record["similarity"], record["measured"], len(record["faces"])) == (None, None, False, 1)
    assert set(record["images"]) == {"thumb", "view"}


def test_a_failed_photo_has_its_reason_and_cure_and_no_picture(tmp_path: Path) -> None:
    """An older output that is still published is mentioned, and not shown as if it were this one's."""
    album = Album.new()
    album.photo("old.png")
    album.reports.clear()
    album.failed("old.png", "JPEG photo, its pixels cannot be decoded: truncated")
    album.failed("slow.png", "the store did not answer", transient=True)
    page = album.report(tmp_path / "page.html").page
    found = records(page)
    assert found["old.png"]["reason"] == "JPEG photo, its pixels cannot be decoded: truncated"
    assert "take it from a backup" in found["old.png"]["cure"]
    assert "still published" in found["old.png"]["notes"][0]
    assert (found["old.png"]["images"], found["slow.png"]["notes"]) == ({}, [])
    assert found["slow.png"]["cure"] == "It may pass by itself: use apf retry."
    assert f"apf retry {album.destination.url} {album.batch.id}" in page.read_text()


@pytest.mark.parametrize(
    ("outcome", "published", "reason", "said"),
    [
        (Outcome.no_face, None, "left out: --no-face skip", "it is not published"),
        (Outcome.skipped, None, "not a photo", "no photo's"),
        (Outcome.protected, None, None, "Its output is gone"),
    ],
)
def test_a_photo_without_an_output_says_why(
    outcome: Outcome, published: None, reason: str | None, said: str, tmp_path: Path
) -> None:
    """Left out, no photo at all, or deleted since: each has its sentence and no picture."""
    album = Album.new()
    album.photo("a.png", outcome, published=published, reason=reason)
    record = of(album, tmp_path)
    assert said in record["notes"][0]
    assert record["images"] == {}


def test_what_an_earlier_run_protected_is_shown_and_measured(tmp_path: Path) -> None:
    """A second run skips what is done; its page shows the photos all the same."""
    album = Album.new()
    album.photo("a.png", Outcome.skipped, reason="already protected")
    record = of(album, tmp_path)
    assert (record["outcome"], record["measured"], record["faceCount"], record["notes"]) == ("skipped", True, 1, [])


def test_an_output_of_another_batch_says_so(tmp_path: Path) -> None:
    """A later batch replaced the output: the newer one is shown, and named as such."""
    album = Album.new()
    album.photo("a.png")
    album.batch = album.batch.model_copy(update={"id": "another"})
    assert "Another batch has replaced" in of(album, tmp_path)["notes"][0]


def test_faces_that_did_not_change_are_told(tmp_path: Path) -> None:
    """Source and output are the same although the output claims to be protected: no infinite figure, but a sentence."""
    album = Album.new()
    before = album.photo("a.png", published=None)
    album.publish("a.png", before, Outcome.protected, album.reports[0].etag)
    record = of(album, tmp_path)
    assert record["psnr"] is None
    assert "they are not protected" in record["notes"][0]


def test_buckets_and_folders_give_the_same_page(swift: S3Server, tmp_path: Path) -> None:
    """A real S3 server's ETags and metadata serve as a folder's do; changed and missing sources are told apart."""
    settings = Settings(s3_endpoint_url=swift.endpoint_url)
    bucket = swift.new_bucket()
    pages = []
    for number, url in enumerate((f"s3://{bucket}", tmp_path.as_uri())):
        source, out = (open_store(f"{url}/{name}", s3=settings.s3, create=True) for name in ("in", "out"))
        album = Album(source, out, settings)
        for key in ("a.png", "sub/b é.png", "c.png"):
            album.photo(key)
        album.source.put("a.png", encoded(pixels(9)))
        album.source.delete("c.png")
        pages.append(records(album.report(tmp_path / f"{number}.html", with_originals=True).page))
    assert pages[0] == pages[1]
    assert "changed" in pages[0]["a.png"]["notes"][0] and "gone" in pages[0]["c.png"]["notes"][0]
    assert pages[0]["sub/b é.png"]["measured"]


def test_quick_looks_at_no_face_and_reads_no_source(tmp_path: Path) -> None:
    """With --measure 0 the pictures are there, the detector is never asked, and the page says so."""
    album, eyes = Album.new(), SeesOneFace()
    for index in range(3):
        album.photo(f"{index}.png")
        album.source.delete(f"{index}.png")
    written = album.report(tmp_path / "page.html", eyes, measure=0)
    assert (eyes.seen, written.measured, written.photos) == (0, 0, 3)
    assert all(set(record["images"]) == {"thumb", "view"} for record in records(written.page).values())
    assert "sources were not read (--measure)" in written.page.read_text()


def test_a_sample_is_measured_and_the_page_says_how_many(tmp_path: Path) -> None:
    """Of six photos three are measured, spread evenly, and the rest are shown without figures."""
    album, eyes = Album.new(), SeesOneFace()
    for index in range(6):
        album.photo(f"{index}.png")
    written = album.report(tmp_path / "page.html", eyes, measure=3)
    assert [name for name, record in records(written.page).items() if record["measured"]] == ["0.png", "2.png", "4.png"]
    assert (eyes.seen, written.measured) == (3, 3)
    assert "3 photos; 3 others were not" in written.page.read_text()


def test_a_damaged_output_is_named_and_the_others_are_shown(tmp_path: Path) -> None:
    """One output that cannot be decoded costs its own picture and nothing else."""
    album = Album.new()
    album.photo("a.png")
    album.photo("b.png")
    head = album.destination.head("a.png")
    assert head
    album.destination.put("a.png", b"torn", metadata=head.metadata)
    found = records(album.report(tmp_path / "page.html").page)
    assert "It cannot be shown: not a photo" in found["a.png"]["notes"][0]
    assert found["b.png"]["measured"]


def test_a_store_that_is_down_ends_the_report_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a page would look like a whole one: the error comes out, and no file stays behind."""
    album = Album.new()
    for index in range(60):
        album.photo(f"{index:02}.png", published=Outcome.protected)
    real = type(album.destination).head

    def head(store: Any, key: str) -> Any:
        if key == "50.png":
            raise StoreUnavailable("the store did not answer")
        return real(store, key)

    monkeypatch.setattr(type(album.destination), "head", head)
    with pytest.raises(StoreUnavailable):
        album.report(tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []
