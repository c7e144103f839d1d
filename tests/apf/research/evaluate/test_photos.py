"""Whole photos: the real road, nothing reused, and every lost face counted."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from apf.detection.detector import Detector, load_detector
from apf.faces.alignment import Box, Face, UInt8, face_from
from apf.filters.torch_filter import Filter
from apf.guides.torch_recogniser import Recogniser
from apf.recipe import Recipe
from apf.research.evaluate.photos import PhotoBench, PhotoRow, photo_row, photo_rows, row_key
from apf.research.evaluate.targets import Target
from apf.research.evaluate.whole_photos.conditions import CONDITIONS
from apf.research.evaluate.whole_photos.judge import Judge
from apf.research.evaluate.whole_photos.pictures import GAP
from apf.research.evaluate.whole_photos.protectors import PhotoMethod, Ready, by_filter, by_rival, unprotected
from apf.research.evaluate.whole_photos.resized import MAX_PIXELS, resized_to
from apf.research.evaluate.whole_photos.same import names_of
from apf.research.evaluate.whole_photos.sizes import PUBLISHED, size_rows
from apf.research.evaluate.whole_photos.subjects import decoded, subjects_in
from apf.research.evaluate.whole_photos.tables import of_photos, of_sizes
from apf.research.evaluate.whole_photos.trials import crops_of
from apf.research.train.data import DataError

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
        self.recipe = Recipe(name="signs", epsilon_levels=8, chroma=1, steps=0, warp_percent=0)
        self.device = torch.device("cpu")
        self.levels, self.detector = levels, detector

    def _answers(self, faces: Tensor, clock: object = None) -> Tensor:
        return torch.cat([(PATTERN * self.levels / 255).expand_as(faces), torch.zeros_like(faces)], 1)


class Finder(nn.Module):
    """Embeds a face as an angle that turns with how much of the pattern is in it."""

    def forward(self, faces: Tensor) -> Tensor:
        there = (faces * PATTERN).mean((1, 2, 3)) * 100
        return torch.stack([torch.ones_like(there), there], 1)


@pytest.fixture(scope="module")
def targets() -> list[Target]:
    return [Target("finder", Recogniser(Finder()), (0.9, -0.9), False, torch.zeros(0, 2), ())]


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


def bench_of(folder: Path, targets: list[Target], detector: Detector | None = None, **more: object) -> PhotoBench:
    """The people in a folder, found by the same detector at all ends unless another one is given for the last."""
    subjects, _ = subjects_in(folder, FixedPlace())
    strangers = more.pop("strangers", None)
    judge = Judge(subjects, targets, strangers)  # type: ignore[arg-type]
    return PhotoBench(subjects, judge, detector or FixedPlace(), **more)  # type: ignore[arg-type]


def signs(levels: int, name: str = "signs", guides: tuple[str, ...] = ()) -> PhotoMethod:
    """The product's road with a filter that adds the same signs to each face."""
    filter_ = Signs(levels, FixedPlace())
    return PhotoMethod(name, lambda: Ready(lambda photo: by_filter(photo, filter_), guides), f"{levels}", "signs")


def test_protection_counts_pairs(people: Path, targets: list[Target]) -> None:
    """Signs that the recogniser reacts to protect every pair under every condition; photos as they are match."""
    bench = bench_of(people, targets)
    clean, ours = photo_rows(bench, [unprotected(), signs(8)])
    assert subjects_in(people, FixedPlace())[1] == 1, "the photo without a face"
    assert list(ours.conditions) == [name for name in CONDITIONS if name != "other detector"]
    assert (ours.photos, ours.faces, clean.faces) == (5, 5, 0)
    for name, judged in ours.conditions.items():
        assert (judged.pairs, judged.lost) == (3 * 2 + 2, 0)
        assert judged.recognisers["finder"].protection == (100.0, 0.0), name
        assert clean.conditions[name].recognisers["finder"].protection == (0.0, 0.0), name
    assert PhotoRow.model_validate_json(ours.model_dump_json()) == ours
    assert ours.seconds_a_face is not None and ours.seconds_a_face > 0 and clean.seconds_a_face is None


def test_templates_strangers_and_pairs_of_protected_photos(people: Path, targets: list[Target]) -> None:
    """Signs leave the template and the gallery's best place to others, and all photos with them match each other."""
    along = torch.tensor([[0.0, 1.0]])  # where the finder puts a face full of the signs
    bench = bench_of(people, targets, strangers={"finder": along})
    clean, ours = photo_rows(bench, [unprotected(), signs(8)])
    before, after = (row.conditions["published"].recognisers["finder"] for row in (clean, ours))
    assert before.template == (0.0, 0.0) and after.template == (100.0, 0.0)
    assert before.together == after.together == (100.0, 100.0)
    assert (before.found, after.found) == (100.0, 0.0)
    alone = photo_row(bench_of(people, targets, limit=1), signs(8)).conditions["published"].recognisers["finder"]
    assert alone.together is None, "one protected photo makes no pair"
    assert alone.found == 100.0, "without strangers the person is always the nearest"


def test_guides_are_in_no_mean(people: Path, targets: list[Target]) -> None:
    """A recogniser that the method climbed on is rated, and left out of the means; another mean is of strangers."""
    blind = Target("blind", Recogniser(Finder()), (-2.0, -2.0), True, torch.zeros(0, 2), ())
    row = photo_row(bench_of(people, [*targets, blind]), signs(8, guides=("finder",)))
    judged = row.conditions["published"]
    assert row.guides == ("finder",) and set(judged.recognisers) == {"finder", "blind"}
    assert judged.unseen is not None and judged.unseen.protection == (0.0, 0.0)
    assert judged.validate_only is None, "blind was attacked in training"
    both = photo_row(bench_of(people, [*targets, blind]), signs(8)).conditions["published"]
    assert both.unseen is not None and both.unseen.protection == (50.0, 0.0)
    assert both.validate_only is not None and both.validate_only.protection == (100.0, 0.0)


def test_guides_are_known_by_what_they_say() -> None:
    """A guide is the target of the same file, or whose embeddings are its own; another network is not."""

    class Guide:
        digest = "of another file"

        def __init__(self, network: nn.Module, *teachers: str) -> None:
            self.network, self.teachers = network, teachers

        def embed(self, crops: np.ndarray) -> np.ndarray:
            return torch.nn.functional.normalize(self.network(torch.from_numpy(crops)), dim=1).numpy()

    class Other(Finder):
        def forward(self, faces: Tensor) -> Tensor:
            return super().forward(faces) * torch.tensor([0.0, 1.0])

    def target(name: str, network: nn.Module, sha256: str = "") -> Target:
        return Target(name, Recogniser(network), (0.9, 0.5), False, torch.zeros(0, 2), (), sha256)

    targets = [target("same", Finder()), target("file", Other(), "of another file"), target("other", Other())]
    assert names_of([Guide(Finder())], targets) == ("same", "file")  # type: ignore[list-item]
    taught = Guide(nn.Flatten(), "of another file")
    assert names_of([taught], targets[1:]) == ("file",), "taught by it"  # type: ignore[list-item]
    assert names_of([], targets) == ()


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

    bench = bench_of(people, targets, Second() if elsewhere else FixedPlace(seen), conditions=PUBLISHED)
    judged = photo_row(bench, signs(8)).conditions["published"]
    assert (judged.lost, judged.pairs) == (1, 2 * 2 + 2)
    assert judged.recognisers["finder"].protection[0] == 100.0


def test_all_faces_lost_has_no_rates(people: Path, targets: list[Target]) -> None:
    """Where no protected face is found there is nothing to rate, rather than perfect protection."""
    known = sums(people)
    bench = bench_of(people, targets, FixedPlace(lambda image: int(image.sum()) in known), conditions=PUBLISHED)
    row = photo_row(bench, signs(8))
    judged = row.conditions["published"]
    assert (judged.lost, judged.pairs, judged.recognisers, judged.unseen) == (5, 0, {}, None)
    assert all(len(line) == len(sheet.columns) for sheet in of_photos([row]) for line in sheet.rows)


def test_another_detector_and_other_landmarks(people: Path, targets: list[Target]) -> None:
    """The other detector's row is there once there is one, and by it alone; landmarks stray the same way each time."""
    blind = FixedPlace(lambda _: False)
    conditions = {name: CONDITIONS[name] for name in ("published", "jittered", "other detector")}
    row = photo_row(bench_of(people, targets, conditions=conditions, other=blind), signs(8))
    assert [row.conditions[name].lost for name in conditions] == [0, 0, 5]
    photo = np.asarray(Image.open(people / "ann" / "512.png"))
    box = FixedPlace()._face(photo).box
    once, again = (crops_of(photo, box, conditions, FixedPlace()) for _ in range(2))
    assert list(once) == ["published", "jittered"]
    assert once["jittered"] is not None and again["jittered"] is not None and once["published"] is not None
    assert torch.equal(once["jittered"], again["jittered"]) and not torch.equal(once["jittered"], once["published"])


@pytest.mark.parametrize("name", ["jpeg40", "blur", "80 px", "median"])
def test_purifiers_take_fine_noise_away(portrait: np.ndarray, name: str) -> None:
    """Each attacker's filter gives a picture of the same size, without most of the noise that was laid on a face."""
    purified = CONDITIONS[name].purified
    assert purified is not None
    smooth = np.asarray(cv2.GaussianBlur(portrait, (0, 0), 4), np.uint8)
    noise = np.random.default_rng(0).integers(-12, 13, smooth.shape)
    noisy = (smooth + noise).clip(0, 255).astype(np.uint8)
    found = purified(noisy, 200.0)
    assert found.shape == noisy.shape and found.dtype == np.uint8
    assert np.abs(found - smooth.astype(int)).mean() < 0.7 * np.abs(noise).mean()


def test_small_faces_are_not_enlarged_by_purifying(portrait: np.ndarray) -> None:
    """A face that has 80 pixels or fewer loses nothing on the way to 80 and back."""
    purified = CONDITIONS["80 px"].purified
    assert purified is not None and np.array_equal(purified(portrait, 80.0), portrait)
    assert not np.array_equal(purified(portrait, 160.0), portrait)


def test_only_some_are_protected(people: Path, targets: list[Target]) -> None:
    """`every` and `limit` choose the photos to protect; these are compared with all photos of the person."""
    assert bench_of(people, targets, every=2).protected == [0, 2, 4]
    bench = bench_of(people, targets, every=2, limit=2, conditions=PUBLISHED)
    row = photo_row(bench, signs(8))
    assert (bench.protected, row.photos, row.conditions["published"].pairs) == ([0, 2], 2, 4)
    assert row.conditions["published"].lost == 0


def test_rows_are_kept(people: Path, targets: list[Target], tmp_path: Path) -> None:
    """A finished row is read again; another key, `fresh` or a row that was cut off is computed anew."""
    bench, built = bench_of(people, targets, limit=1, conditions=PUBLISHED), []

    def method(key: str) -> PhotoMethod:
        return PhotoMethod("ours: x", lambda: built.append(key) or signs(8).build(), key)  # type: ignore[func-returns-value]

    (first,) = photo_rows(bench, [method("1")], folder=tmp_path, key="a")
    assert photo_rows(bench, [method("1")], folder=tmp_path, key="a") == [first] and built == ["1"]
    photo_rows(bench, [method("2")], folder=tmp_path, key="a")
    photo_rows(bench, [method("2")], folder=tmp_path, key="b")
    photo_rows(bench, [method("2")], folder=tmp_path, key="b", fresh=True)
    assert built == ["1", "2", "2", "2"]
    (tmp_path / "ours-x.json").write_text((tmp_path / "ours-x.json").read_text()[:-30])
    photo_rows(bench, [method("2")], folder=tmp_path, key="b")
    assert len(built) == 5
    assert row_key(bench, ["a"]) != row_key(bench, ["b"]) != row_key(bench_of(people, targets), ["b"])


def test_sheets_are_at_one_to_one(people: Path, targets: list[Target], tmp_path: Path) -> None:
    """Each photo has a sheet whose halves are its own pixels, clean and protected, and all are on a contact sheet."""
    bench = bench_of(people, targets, limit=2, conditions=PUBLISHED)
    photo_rows(bench, [signs(8)], pictures=tmp_path)
    sheet = np.asarray(Image.open(tmp_path / "signs" / "ann-480.png"))
    width = (sheet.shape[1] - GAP) // 2
    clean, protected = sheet[:, :width].astype(int), sheet[:, width + GAP :].astype(int)
    assert len(list((tmp_path / "signs").glob("ann-*.png"))) == 2 and (tmp_path / "signs" / "contact.png").exists()
    photo = np.asarray(Image.open(people / "ann" / "480.png"))
    assert any(
        np.array_equal(photo[y : y + sheet.shape[0], x : x + width], clean)
        for y in range(photo.shape[0] - sheet.shape[0] + 1)
        for x in range(photo.shape[1] - width + 1)
        if np.array_equal(photo[y, x : x + width], clean[0])
    )
    assert 0 < np.abs(clean - protected).max() <= 13


def test_rivals_are_pasted_evenly(people: Path, targets: list[Target], standard: Filter) -> None:
    """A rival's perturbation moves textured and smooth pixels of a face alike, by no more than its epsilon."""
    recipe = Recipe(name="standard", epsilon_levels=8, steps=0, warp_percent=0, weights=standard.recipe.weights)
    photo = decoded(people / "ann" / "512.png")
    method = by_rival("all up", lambda: lambda faces: torch.full_like(faces, 8 / 255), "1", ["known"], recipe)
    ready = method.build()
    found = ready.protect(photo)
    moved = found.pixels.astype(int) - photo.pixels
    (face,) = found.faces
    x1, y1, x2, y2 = (round(edge) for edge in face.box)
    middle = np.s_[(2 * y1 + y2) // 3 : (y1 + 2 * y2) // 3, (2 * x1 + x2) // 3 : (x1 + 2 * x2) // 3]
    assert ready.guides == ("known",) and np.array_equal(found.still, found.pixels)
    assert moved.max() == 8 and moved.min() == 0
    assert (moved[middle][photo.pixels[middle] <= 247] == 8).all()


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
    detector = load_detector("centerface")
    subjects, _ = subjects_in(tmp_path, detector)
    bench = PhotoBench(subjects, Judge(subjects, targets), detector)
    filter_ = Signs(8, detector)
    tiny, small, large = rows = size_rows(bench, Ready(lambda photo: by_filter(photo, filter_)), (8, 40, 160))
    assert [row.face_px for row in rows] == [8, 40, 160]
    assert (tiny.lost_clean, tiny.lost, tiny.found_px, tiny.protected) == (2, 0, None, None)
    for row, enlarged in ((small, 0), (large, 2)):
        assert row.found_px == pytest.approx(row.face_px, rel=0.1)
        assert (row.upscaled, row.lost, row.photos) == (enlarged, 0, 2)
    assert large.clean is not None and large.protected is not None
    assert large.clean.protection[0] < large.protected.protection[0] == 100.0
    (sheet,) = of_sizes(rows, "signs")
    assert all(len(line) == len(sheet.columns) for line in sheet.rows)


def bench_for(folder: Path, targets: list[Target], wanted: bool) -> PhotoBench:
    detector = FixedPlace(lambda _: wanted)
    subjects, _ = subjects_in(folder, detector)
    return PhotoBench(subjects, Judge(subjects, targets), detector)


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
        photo_row(bench_for(folder, targets, wanted), signs(8))
