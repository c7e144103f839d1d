"""Fifty real photos through the command; skips where the photos are absent (see CONTRIBUTING.md)."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from tests.command import apf_json
from tests.producer.cli.test_commands import adds_up

SHARED = Path(os.environ.get("APF_SHARED", Path(__file__).parents[2] / "shared"))
PHOTOS = sorted((SHARED / "photos").rglob("*.jpg"))


@pytest.mark.rotating("long roads")
@pytest.mark.timeout(900)
@pytest.mark.skipif(not PHOTOS, reason="no photos in ../shared/photos")
def test_fifty_photos_all_come_out_and_a_second_run_takes_a_fifth_of_the_time(tmp_path: Path) -> None:
    """Every photo has an output of the same size and orientation; the figures add up; nothing is done twice."""
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for index in range(50):
        shutil.copy(PHOTOS[index % len(PHOTOS)], source / f"{index:03}.jpg")
    start = time.monotonic()
    first = apf_json("protect", source, out)
    first_s = time.monotonic() - start
    assert adds_up(first)
    assert (first["photos"], first["failed"], first["pending"]) == (50, 0, 0)
    for path in source.iterdir():
        with Image.open(path) as before, Image.open(out / path.name) as after:
            assert ImageOps.exif_transpose(before).size == after.size
            after.load()
    start = time.monotonic()
    second = apf_json("protect", source, out)
    second_s = time.monotonic() - start
    assert (second["protected"], second["skipped"]) == (0, 50)
    print(f"\n50 photos, {first['faces']} faces: first run {first_s:.1f} s, second {second_s:.1f} s")
    assert second_s < first_s / 5
