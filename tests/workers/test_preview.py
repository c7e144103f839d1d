"""Looks of the first face, as `apf app` shows them before a batch is made."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut, coffee

from workers import preview
from workers.config.settings import Settings


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A photo without a face first, then a broken one, then a small face beside nothing, then a large one."""
    Image.fromarray(coffee()).save(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:5000])
    Image.fromarray(astronaut()).resize((200, 200)).save(tmp_path / "c.png")
    Image.fromarray(astronaut()).save(tmp_path / "d.png")
    return tmp_path


def pixels(look: preview.FacePreview) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(look.picture)).convert("RGB")).astype(int)


def test_the_first_large_face_is_shown_as_it_is_and_under_each_recipe(photos: Path) -> None:
    """All of one size, none the same, and what is stronger differs more."""
    found = list(preview.face_previews(str(photos), ["light", "strong"], Settings()))
    assert [look.recipe for look in found] == ["", "light", "strong"]
    original, light, strong = map(pixels, found)
    assert original.shape == light.shape == strong.shape and max(original.shape) == preview.PICTURE_PX
    moved = [np.abs(one - original).mean() for one in (light, strong)]
    assert 0.3 < moved[0] < moved[1]
    # From the large photo: its face is sharper than the small one's would be.
    small = next(preview.face_previews(str(_only(photos, "c.png")), [], Settings()))
    assert np.abs(np.diff(original, axis=1)).mean() > 1.2 * np.abs(np.diff(pixels(small), axis=1)).mean()


def _only(folder: Path, name: str) -> Path:
    alone = folder / "alone"
    alone.mkdir()
    (folder / name).rename(alone / name)
    return alone


def test_without_a_face_there_is_no_look(photos: Path) -> None:
    """Nor is any filter loaded."""
    for name in ("c.png", "d.png"):
        (photos / name).unlink()
    assert list(preview.face_previews(str(photos), ["light"], Settings())) == []


def test_recipes_share_their_networks_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three copies of the guides would take gigabytes of a person's machine."""
    monkeypatch.setenv("APF_STEPS", "1")
    light, strong = preview._filters(["light", "strong"], Settings(device="cpu"))
    assert light.guides is strong.guides and light.guides.climbed
    assert (light.recipe.name, strong.recipe.name) == ("light", "strong")
