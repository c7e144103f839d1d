"""The page of a private batch: figures and failures, and no picture of anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.private_files import answer, gradient_file
from tests.workers.report.albums import Album, SeesOneFace, all_pictures, records
from workers.core.records import Outcome, PhotoReport
from workers.errors import BadRequest
from workers.report.build import ReportOptions, build
from workers.report.output_files import Target
from workers.store.output_metadata import BATCH, FACES, OUTCOME, RECIPE, SOURCE_ETAG


def private_album() -> Album:
    """A gradient file that was answered, one without faces, one that failed, and one whose answer is gone."""
    album = Album.new()
    album.batch = album.batch.model_copy(update={"private": True, "ignored": 2})
    for key, numbers in {"a.safetensors": (0, 1), "b.safetensors": ()}.items():
        outcome = Outcome.protected if numbers else Outcome.no_face
        etag = album.source.put(key, gradient_file(*numbers)).etag
        marks = {SOURCE_ETAG: etag, RECIPE: album.batch.recipe.id, BATCH: album.batch.id, OUTCOME: outcome.value}
        album.destination.put(key, answer(gradient_file(*numbers)), metadata={**marks, FACES: str(len(numbers))})
        album.reports.append(PhotoReport(key=key, etag=etag, outcome=outcome, faces=len(numbers)))
    album.failed("c.safetensors", "the file is no safetensors file of APF: give one that `apf private` made")
    album.reports.append(PhotoReport(key="d.safetensors", etag="e", outcome=Outcome.protected, faces=1))
    return album


def test_a_private_batchs_page_has_figures_failures_and_no_picture(tmp_path: Path) -> None:
    """Neither detector nor decoder look at anything; the page says where the photos are."""
    eyes = SeesOneFace()
    written = private_album().report(tmp_path / "page.html", eyes)
    assert (written.photos, written.measured, written.folder, eyes.seen) == (4, 0, None, 0)
    assert all_pictures(written.page) == []
    found = records(written.page)
    assert {key: (r["outcome"], r["faceCount"], r["images"]) for key, r in found.items()} == {
        "a.safetensors": ("protected", 2, {}),
        "b.safetensors": ("no_face", 0, {}),
        "c.safetensors": ("failed", 0, {}),
        "d.safetensors": ("protected", 1, {}),
    }
    assert found["a.safetensors"]["notes"] == []
    assert "found no face" in found["b.safetensors"]["notes"][0]
    assert "owner makes the gradient file again" in found["c.safetensors"]["cure"]
    assert "gone from the destination" in found["d.safetensors"]["notes"][0]
    page = written.page.read_text()
    assert "The photos are with their owners." in page
    assert "2 other files that are no gradient files" in page
    assert "unprotected photos" not in page
    assert '<body class="private">' in page


def test_there_are_no_originals_to_compare_with(tmp_path: Path) -> None:
    """Who asks for them is told why, and no page is written."""
    album = private_album()
    album.write()
    with pytest.raises(BadRequest, match="with their owners"):
        build(
            album.ledger,
            album.batch.id,
            Target(tmp_path / "page.html"),
            ReportOptions(with_originals=True),
            album.settings,
        )
    assert list(tmp_path.iterdir()) == []
