"""Whole photos: the real road, nothing reused, and every lost face counted."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from apf.detect import Detector, load_detector
from apf.evaluate.photos import whole_photos
from apf.evaluate.targets import Target
from apf.evaluate.whole.conditions import CONDITIONS
from apf.evaluate.whole.resized import MAX_PIXELS, resized_to
from apf.faces import Box, Face, UInt8, face_from
from apf.filter import Filter
from apf.models.recogniser import Recogniser
from apf.recipe import Recipe
from apf.train.data import DataError

PATTERN = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(7, 7).repeat_interleave(8, 0).repeat_interleave(8, 1)
#: Where the astronaut's face is, as parts of the picture's sides.
PLACE = (0.37, 0.13, 0.51, 0.35)
Pick = Callable[[UInt8], bool]


class FixedPlace:
    """A detector that finds one face at the same part of every picture, unless a picture is flat or not wanted."""

    def __init__(self, wanted: Pick = lambda _: True, place: Sequence[float] = PLACE) -> None:
        self.wanted, self.place = wanted, place

    def detect(self, images: Sequence[UInt8]) -> list[list[Face]]:
        return [[self._face(image)] if image.std() > 5 and self.wanted(image) else [] for image in images]

    def _face(self, image: UInt8) -> Face:
        height, width = image.shape[:2]
        x1, y1, x2, y2 = (part * side for part, side in zip(self.place, (width, height) * 2, strict=True))
        return face_from((x1, y1, x2, y2), np.zeros((5, 2)), 1.0)


class Signs(Filter):
    """A filter that adds the same signs to each face, at `levels` of 255."""

    def __init__(self, levels: int, detector: Detector) -> None:
        self.recipe = Recipe(name="signs", epsilon_levels=8, steps=0)
        self.device = torch.device("cpu")
        self.levels, self.detector = levels, detector

    def perturbation(self, faces: Tensor, clock: object = None) -> Tensor:
        return (PATTERN * self.levels / 255).expand_as(faces)


class Finder(nn.Module):
    """Embeds a face as an angle that turns with how much of the pattern is in it."""

    def forward(self, faces: Tensor) -> Tensor:
        there = (faces * PATTERN).mean((1, 2, 3)) * 100
        return torch.stack([torch.ones_like(there), there], 1)


@pytest.fixture(scope="module")
def targets() -> list[Target]:
    return [Target("finder", Recogniser(Finder()), (0.9, 0.5), False, torch.zeros(0, 2), ())]


def save(path: Path, portrait: np.ndarray, side: int = 300) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(portrait).resize((side, side), Image.Resampling.BOX).save(path)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory, portrait: np.ndarray) -> Path:
    """Ann with three photos and one without a face, Bob one folder further down with two, Cid with a single one."""
    folder = tmp_path_factory.mktemp("people")
    for side in (512, 500, 480):
        save(folder / "ann" / f"{side}.png", portrait, side)
    for side in (508, 490):
        save(folder / "more" / "bob" / f"{side}.png", portrait, side)
    save(folder / "ann" / "flat.png", np.full((64, 64, 3), 90, np.uint8))
    save(folder / "cid" / "alone.png", portrait)
    (folder / "more" / "LICENSE").write_text("no photo")
    return folder


def test_protection_counts_pairs(people: Path, targets: list[Target]) -> None:
    """Signs that the recogniser reacts to protect every pair, as whole photos and as crops; clean photos match."""
    result = whole_photos(people, Signs(8, FixedPlace()), targets, sizes=())
    assert (result.people, result.photos, result.faceless) == (2, 5, 1)
    assert [row.condition for row in result.conditions] == list(CONDITIONS)
    for row in result.conditions:
        assert (row.pairs, row.lost, row.lost_clean) == (3 * 2 + 2, 0, 0)
        assert row.clean["finder"][0] == 0.0 and row.protected["finder"][0] == 100.0, row.condition
    assert result.crops["finder"][0] == 100.0 and result.loss["finder"][0] == 0.0
    assert result.psnr_pasted_db == result.psnr_published_db, "a PNG leaves without loss"
    assert result.psnr_pasted_db is not None and 31 < result.psnr_pasted_db < 35
    assert json.loads(json.dumps(asdict(result)))["photos"] == 5


def test_loss_is_crops_less_whole_photos(people: Path, targets: list[Target]) -> None:
    """The loss is the crops' rate less the first condition's: all of it, where a blur takes the signs away."""
    blur = {"blur": lambda pixels: np.asarray(cv2.blur(pixels, (31, 31)), np.uint8)}
    result = whole_photos(people, Signs(8, FixedPlace()), targets, conditions=blur, sizes=())
    assert result.conditions[0].protected["finder"][0] == 0.0
    assert result.crops["finder"][0] == 100.0 and result.loss["finder"][0] == 100.0


def test_no_perturbation_protects_as_clean_photos_do(people: Path) -> None:
    """With nothing added every rate is that of the clean photos, and there is no PSNR to speak of."""
    sharp = [Target("sharp", Recogniser(Finder()), (0.99999, 0.999), False, torch.zeros(0, 2), ())]
    result = whole_photos(people, Signs(0, FixedPlace()), sharp, sizes=())
    assert all(row.protected == row.clean for row in result.conditions)
    assert result.conditions[0].clean["sharp"][0] > 0, "a threshold that clean photos fail tells more"
    assert result.psnr_pasted_db is None and result.psnr_published_db is None


def sums(folder: Path) -> set[int]:
    return {int(np.asarray(Image.open(path)).sum()) for path in folder.rglob("*.png")}


@pytest.mark.parametrize("elsewhere", [False, True])
def test_lost_faces_are_neither(people: Path, targets: list[Target], elsewhere: bool) -> None:
    """A protected photo in which no face is found, or only one elsewhere, is lost: its pairs count as neither."""
    known = sums(people)

    class Second(FixedPlace):
        def _face(self, image: UInt8) -> Face:
            hidden = image.shape[0] == 500 and int(image.sum()) not in known
            return FixedPlace(place=(0.6, 0.6, 0.8, 0.9))._face(image) if hidden else super()._face(image)

    def seen(image: UInt8) -> bool:
        return image.shape[0] != 500 or int(image.sum()) in known

    second = Second() if elsewhere else FixedPlace(seen)
    published = {"published": CONDITIONS["published"]}
    result = whole_photos(people, Signs(8, FixedPlace()), targets, detector=second, conditions=published, sizes=())
    row = result.conditions[0]
    assert (row.lost, row.lost_clean, row.pairs) == (1, 0, 2 * 2 + 2)
    assert row.protected["finder"][0] == 100.0


def test_all_faces_lost_has_no_rates(people: Path, targets: list[Target]) -> None:
    """Where no protected face is found there is nothing to rate, rather than perfect protection."""
    known = sums(people)
    second = FixedPlace(lambda image: int(image.sum()) in known)
    published = {"published": CONDITIONS["published"]}
    result = whole_photos(people, Signs(8, FixedPlace()), targets, detector=second, conditions=published, sizes=())
    row = result.conditions[0]
    assert (row.lost, row.pairs, row.clean, row.protected) == (5, 0, {}, {})
    assert result.crops == {} and result.loss == {}


@pytest.mark.parametrize("size", [40, 80, 160, 320, 640, 1000])
@pytest.mark.parametrize("box", [(100.0, 80.0, 180.0, 190.0), (5.0, 3.0, 29.0, 33.0)], ids=["middle", "corner"])
def test_resizing_yields_the_size(size: int, box: Box) -> None:
    """A white box in a black photo has the wanted size afterwards, and lies where the returned box says."""
    photo = np.zeros((400, 600, 3), np.uint8)
    x1, y1, x2, y2 = (int(edge) for edge in box)
    photo[y1:y2, x1:x2] = 255
    resized, place, upscaled = resized_to(photo, box, size)
    rows, columns = np.nonzero(resized[..., 0] > 127)
    sides = np.ptp(columns) + 1, np.ptp(rows) + 1
    assert np.sqrt(sides[0] * sides[1]) == pytest.approx(size, rel=0.05)
    assert place == pytest.approx((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1), abs=1 + size / 100)
    assert upscaled == (size > np.sqrt((x2 - x1) * (y2 - y1)))
    assert resized.shape[0] * resized.shape[1] < 2 * MAX_PIXELS


def test_sizes_with_the_real_detector(tmp_path: Path, portrait: np.ndarray, targets: list[Target]) -> None:
    """Resized photos show a face of about the size asked for; enlarged ones are counted, and so are missed faces."""
    for number, shift in enumerate((0, 8)):
        save(tmp_path / "astronaut" / f"{number}.jpg", portrait[:400, shift : 400 + shift], 400)
    filter_ = Signs(8, load_detector("centerface"))
    result = whole_photos(tmp_path, filter_, targets, conditions={}, sizes=(8, 40, 160))
    tiny, small, large = result.sizes
    assert [row.face_px for row in result.sizes] == [8, 40, 160]
    assert (tiny.lost_clean, tiny.pairs, tiny.found_px) == (2, 0, None)
    for row, enlarged in ((small, 0), (large, 2)):
        assert row.found_px == pytest.approx(row.face_px, rel=0.1)
        assert (row.upscaled, row.lost, row.pairs) == (enlarged, 0, 2)
    assert result.conditions == () and result.crops == {} and result.loss == {}


def damaged(portrait: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(portrait).save(buffer, "JPEG")
    return buffer.getvalue()[:5000]


@pytest.mark.parametrize("case", ["no folder", "single photos", "no person", "no face", "damaged"])
def test_unfit_folders(tmp_path: Path, portrait: np.ndarray, targets: list[Target], case: str) -> None:
    """A folder that cannot be measured ends in a DataError that names the cure."""
    folder, wanted = tmp_path / "photos", case != "no face"
    if case == "no person":
        save(folder / "a.png", portrait)
        save(folder / "b.png", portrait)
    elif case != "no folder":
        save(folder / "ann" / "1.png", portrait)
        save(folder / ("bob" if case == "single photos" else "ann") / "2.png", portrait)
    if case == "damaged":
        (folder / "ann" / "3.jpg").write_bytes(damaged(portrait))
    with pytest.raises(DataError, match=r"--photos|two photos with a face|3\.jpg cannot be protected"):
        whole_photos(folder, Signs(8, FixedPlace(lambda _: wanted)), targets)
