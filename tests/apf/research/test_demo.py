"""The demo's two ends: which photos it gathers, and that its numbers and its picture are true."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apf.faces.alignment import ARCFACE_TEMPLATE, CROP, Face
from apf.photo import Photo, decode
from apf.protect.quality import Comparison, compare, difference, psnr_db, self_similarities
from apf.research import demo
from apf.research.demo import collect, draw, main

#: A face whose crop is the photo's upper left 112 pixels.
FACE = Face((15, 5, 97, 115), tuple((float(x), float(y)) for x, y in ARCFACE_TEMPLATE), 0.9)


def flat(face: np.ndarray) -> np.ndarray:
    """The embedding is the face itself, so that cosines can be worked out by hand."""
    return face.ravel() / np.linalg.norm(face)


class SeesOneFace:
    """Stands for the filter where the real one's weights and detector are not what is tested."""

    embedding = staticmethod(flat)

    @property
    def detector(self) -> SeesOneFace:
        return self

    def detect(self, images: list[np.ndarray]) -> list[list[Face]]:
        return [[FACE] for _ in images]


def noise(seed: int, height: int = 120, width: int = 160) -> np.ndarray:
    return np.random.default_rng(seed).integers(10, 245, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def photo(tmp_path: Path, pixels: np.ndarray) -> Photo:
    return decode(save(tmp_path / "photo.png", pixels).read_bytes())


def test_the_demo_has_two_real_photos_of_its_own(tmp_path: Path) -> None:
    """Without a folder of the user's, the six people and the astronaut are there, and whole."""
    found = collect(tmp_path / "in")
    assert [path.name for path in found] == ["astronaut.jpg", "six-people.jpg"]
    sizes = [(p.header.width, p.header.height) for p in (decode(path.read_bytes()) for path in found)]
    assert sizes == [(512, 512), (1280, 886)]


def test_own_photos_keep_their_names_and_nothing_else_comes_along(tmp_path: Path) -> None:
    """Photos of all depths are taken; text, hidden folders, broken links and what the demo wrote itself are not."""
    own, target = tmp_path / "my photos", tmp_path / "my photos" / "demo" / "in"
    save(own / "a'b $x.png", noise(1))
    save(own / "deep" / "er" / "c.png", noise(2))
    save(own / ".hidden" / "d.png", noise(3))
    save(own / "demo" / "old.png", noise(4))
    (own / "notes.txt").write_text("no photo")
    (own / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (own / "link.png").symlink_to(own / "a'b $x.png")
    names = {path.relative_to(target).as_posix() for path in collect(target, own)}
    assert names - {"astronaut.jpg", "six-people.jpg"} == {
        "photos/a'b $x.png",
        "photos/deep/er/c.png",
        "photos/link.png",
    }
    assert not (target / "photos" / "link.png").is_symlink()


def test_own_photos_are_copied_where_links_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder on another disk cannot be hard-linked; its photos come all the same."""

    def refuse(*_: object) -> None:
        raise OSError("cross-device link")

    source = save(tmp_path / "own" / "a.png", noise(1))
    monkeypatch.setattr(os, "link", refuse)
    collect(tmp_path / "demo" / "in", tmp_path / "own")
    assert (tmp_path / "demo" / "in" / "photos" / "a.png").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_folder_without_photos_is_refused_by_name(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistyped PHOTOS= is an error that names it, and not a demo of something else."""
    (tmp_path / "empty").mkdir()
    assert main(["collect", str(tmp_path / "in"), "--photos", str(tmp_path / name)]) == 2
    assert name in capsys.readouterr().err


def test_psnr_is_that_of_the_definition() -> None:
    """One level everywhere is 20 log10(255) dB; no change is infinite; no pixel is not a number."""
    black = np.zeros((4, 4, 3), np.uint8)
    assert psnr_db(black, black + 1) == pytest.approx(48.1308, abs=1e-4)
    assert psnr_db(black + 1, black) == pytest.approx(48.1308, abs=1e-4)
    assert psnr_db(black, black) == math.inf
    assert math.isnan(psnr_db(black[:0], black[:0]))


def test_psnr_counts_only_pixels_inside_faces(tmp_path: Path) -> None:
    """A change outside the face leaves its PSNR infinite; the same inside does not."""
    before, outside, inside = noise(1), noise(1), noise(1)
    outside[:, 130:] += 5
    inside[50:60, 50:60] += 5
    was = photo(tmp_path, before)
    assert compare("x", was, photo(tmp_path, outside), [FACE], flat).psnr_db == math.inf
    assert 30 < compare("x", was, photo(tmp_path, inside), [FACE], flat).psnr_db < 70


def test_similarity_is_the_cosine_of_the_probes_embeddings() -> None:
    """1 for the same face, 0 for one at a right angle, each face for itself."""
    faces = np.zeros((2, 3, CROP, CROP), np.float32)
    faces[:, 0], other = 1, np.zeros((2, 3, CROP, CROP), np.float32)
    other[0, 0], other[1, 1] = 1, 1
    assert self_similarities(faces, other, flat) == pytest.approx((1, 0))


def test_difference_is_ten_times_absolute_and_saturates() -> None:
    """It neither wraps around nor loses the sign's size."""
    before, after = np.array([[[100, 100, 0]]], np.uint8), np.array([[[103, 97, 255]]], np.uint8)
    assert difference(before, after).tolist() == [[[30, 30, 255]]]


@pytest.mark.parametrize(
    ("height", "width", "faces"), [(120, 160, 0), (120, 160, 1), (40, 3000, 2), (3000, 40, 9), (1, 1, 0)]
)
def test_any_photo_fits_into_the_picture(height: int, width: int, faces: int) -> None:
    """Wide, tall and tiny photos, with no face and with more than are shown, make a row of the picture's width."""
    pixels = noise(1, height, width)
    one = Comparison("a long name " * 20, pixels, pixels, (FACE,) * faces, (0.5,) * faces, 40.0)
    assert draw([one, one], "standard").size[0] == demo.WIDTH


def test_the_picture_shows_what_was_protected_and_names_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Folders in, a picture and a table out; a photo without output is named, and the path is printed last."""
    before, after = noise(1), noise(1)
    after[:112, :112] += 2
    save(tmp_path / "in" / "a.png", before)
    save(tmp_path / "in" / "refused.png", before)
    save(tmp_path / "out" / "a.png", after)
    stand_in = SeesOneFace()
    monkeypatch.setattr(demo, "load_eyes", lambda _: (stand_in, "standard"))
    assert main(["picture", *(str(tmp_path / name) for name in ("in", "out", "shown/picture.png"))]) == 0
    out, err = capsys.readouterr()
    with Image.open(tmp_path / "shown" / "picture.png") as picture:
        assert picture.size[0] == demo.WIDTH
    assert "42.1" in out
    assert out.splitlines()[-1] == str(tmp_path / "shown" / "picture.png")
    assert "refused.png" in err


def test_nothing_to_show_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where no photo was protected there is no picture, and the command says what to do."""
    save(tmp_path / "in" / "a.png", noise(1))
    monkeypatch.setattr(demo, "load_eyes", lambda _: (SeesOneFace(), "standard"))
    assert main(["picture", str(tmp_path / "in"), str(tmp_path / "out"), str(tmp_path / "p.png")]) == 2
    assert "protect them first" in capsys.readouterr().err


def test_a_large_album_shows_its_first_photos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The picture stays of a size that opens, and says that it is not all."""
    for number in range(3):
        save(tmp_path / "in" / f"{number}.png", noise(number))
    monkeypatch.setattr(demo, "MAX_PHOTOS", 2)
    monkeypatch.setattr(demo, "load_eyes", lambda _: (SeesOneFace(), "standard"))
    main(["picture", str(tmp_path / "in"), str(tmp_path / "in"), str(tmp_path / "p.png")])
    out, err = capsys.readouterr()
    assert "first 2 photos" in err
    assert "2.png" not in out
