"""Whole photos: bounded, untouched outside the faces, independent of each other, the same kind of file out."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import apf
from apf.attack.bound import Bound
from apf.attack.canvas import Canvas
from apf.attack.perturbation import Change, Drawing
from apf.errors import CorruptPhoto, PhotoTooLarge
from apf.faces.alignment import CROP, alignment, footprint
from apf.faces.geometry import bounds_of, clipped
from apf.filters.torch_filter import Filter
from apf.photo import Limits, Photo, decode
from apf.protect.pipeline import ProtectedPhoto, ProtectedPixels, hide_faces, protect_batch, protect_photo
from apf.recipe import Recipe
from apf.runtime.stage_clock import StageClock
from tests.apf.attack.scenes import without_warp

FORMATS = ("JPEG", "PNG", "WEBP")
RECIPES = ("light", "standard", "strong")


def saved(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def difference(protected: ProtectedPixels) -> np.ndarray:
    """(H, W, 3) signed levels."""
    return protected.pixels.astype(int) - protected.photo.pixels


def allowed_by(recipe: Recipe, protected: ProtectedPixels) -> np.ndarray:
    """(H, W, 1) levels that a recipe lets each pixel move by: the largest of the bounds of the faces that it is in."""
    shape, bound = protected.photo.pixels.shape, Bound.of(recipe)
    found = np.zeros(shape[:2])
    for face in protected.faces:
        matrix = alignment(face.landmarks)
        x1, y1, x2, y2 = rect = clipped(bounds_of(matrix), shape)
        nothing = Change(np.zeros((3, CROP, CROP), np.float32))
        drawing = Drawing(nothing, Canvas(protected.photo.pixels, matrix, bound), bound, matrix)
        found[y1:y2, x1:x2] = np.maximum(found[y1:y2, x1:x2], drawing.bound(rect))
    assert found.max(initial=0) <= bound.most
    return found[..., None]


def touched_by_faces(protected: ProtectedPixels) -> np.ndarray:
    """(H, W) bool: inside the crop of some face."""
    masks = [footprint(alignment(face.landmarks), protected.pixels.shape) for face in protected.faces]
    return np.logical_or.reduce(masks) if masks else np.zeros(protected.pixels.shape[:2], bool)


@pytest.fixture(scope="session")
def filters(filters: dict[str, Filter]) -> dict[str, Filter]:
    """The same without a warp, which moves pixels further than their bound."""
    return {name: without_warp(one) for name, one in filters.items()}


@pytest.fixture(scope="session")
def standard(filters: dict[str, Filter]) -> Filter:
    return filters["standard"]


@pytest.fixture(scope="module")
def head(portrait: np.ndarray) -> np.ndarray:
    """The astronaut's head with some of the picture around it: one face, quickly found."""
    return np.ascontiguousarray(portrait[:256, 96:352])


@pytest.fixture(scope="module")
def group(group_photo: bytes) -> Photo:
    """The group photo at half size: six faces."""
    small = opened(group_photo).resize((640, 443))
    return decode(saved(np.asarray(small)))


@pytest.fixture(scope="module")
def protected_group(standard: Filter, group: Photo) -> ProtectedPixels:
    return protect_batch([group], standard)[0]


def test_the_public_name_is_the_pipeline() -> None:
    """`apf.protect_photo` is the function that this file tests."""
    assert apf.protect_photo is protect_photo and apf.ProtectedPhoto is ProtectedPhoto


def test_every_face_of_a_group_is_protected(protected_group: ProtectedPixels) -> None:
    """All six faces are found, and the pixels in the middle of each are changed."""
    assert len(protected_group.faces) == 6 and protected_group.outcome == "protected"
    moved = np.abs(difference(protected_group)).max(2) > 0
    for face in protected_group.faces:
        x1, y1, x2, y2 = (round(edge) for edge in face.box)
        assert moved[y1:y2, x1:x2].mean() > 0.5


def test_group_is_bounded_and_untouched_outside(standard: Filter, protected_group: ProtectedPixels) -> None:
    """No pixel of a real group photo moves by more than its bound, and none outside the faces' crops at all."""
    moved = difference(protected_group)
    assert (np.abs(moved) <= allowed_by(standard.recipe, protected_group)).all()
    outside = ~touched_by_faces(protected_group)
    assert outside.mean() > 0.3
    assert not moved[outside].any()


@settings(max_examples=20)
@given(data=st.data())
def test_random_photos(filters: dict[str, Filter], portrait: np.ndarray, data: st.DataObject) -> None:
    """Cut anywhere (faces at or over the edge too), turned, dimmed, grey: bounded, and untouched outside the crops."""
    left, top = data.draw(st.integers(0, 250), label="left"), data.draw(st.integers(0, 160), label="top")
    width, height = data.draw(st.integers(33, 262), label="width"), data.draw(st.integers(33, 300), label="height")
    pixels = portrait[top : top + height, left : left + width]
    pixels = np.rot90(pixels, data.draw(st.integers(0, 3), label="quarter turns"))
    low, high = data.draw(st.sampled_from([(0, 255), (0, 40), (215, 255)]), label="range of brightness")
    pixels = (low + pixels.astype(float) * (high - low) / 255).round().astype(np.uint8)
    if data.draw(st.booleans(), label="grey"):
        pixels = np.repeat(pixels[..., :1], 3, axis=2)
    name = data.draw(st.sampled_from(RECIPES), label="recipe")
    photo = decode(saved(np.ascontiguousarray(pixels)))
    protected = protect_batch([photo], filters[name])[0]
    moved = difference(protected)
    assert protected.pixels.shape == pixels.shape and protected.pixels.dtype == np.uint8
    assert np.array_equal(photo.pixels, pixels), "the decoded photo was written to"
    assert (np.abs(moved) <= allowed_by(filters[name].recipe, protected)).all()
    assert not moved[~touched_by_faces(protected)].any()
    assert protected.outcome == ("protected" if protected.faces else "no_face")
    if photo.grey:
        assert np.ptp(protected.pixels, axis=2).max() == 0


@pytest.mark.rotating
@pytest.mark.parametrize("side", ["left", "top", "right", "bottom"])
def test_face_over_the_edge(standard: Filter, portrait: np.ndarray, side: str) -> None:
    """A face whose crop reaches over the photo's edge is protected up to the edge and no further."""
    edges = {"left": 185, "top": 75, "right": 265, "bottom": 165}
    first, last = edges[side], edges[side]
    pixels = {
        "left": portrait[:256, first:],
        "top": portrait[first:300, 96:352],
        "right": portrait[:256, :last],
        "bottom": portrait[:last, 96:352],
    }[side]
    protected = protect_batch([decode(saved(np.ascontiguousarray(pixels)))], standard)[0]
    assert protected.outcome == "protected"
    inside = touched_by_faces(protected)
    border = {"left": inside[:, 0], "top": inside[0], "right": inside[:, -1], "bottom": inside[-1]}[side]
    assert border.any(), "this face does not reach the edge: the test tests nothing"
    assert np.abs(difference(protected)).max() > 0
    assert (np.abs(difference(protected)) <= allowed_by(standard.recipe, protected)).all()
    assert not difference(protected)[~inside].any()


def test_other_photos_do_not_matter(
    standard: Filter, group: Photo, protected_group: ProtectedPixels, head: np.ndarray
) -> None:
    """A photo comes out the same to the bit alone, twice in a batch, and between photos of other sizes."""
    one = decode(saved(head))
    empty = decode(saved(np.full((90, 130, 3), 200, np.uint8)))
    alone = {id(photo): protect_batch([photo], standard)[0] for photo in (one, empty)}
    alone[id(group)] = protected_group
    for batch in ([one, empty, group], [group, one, one]):
        for photo, found in zip(batch, protect_batch(batch, standard), strict=True):
            assert found.photo is photo
            assert np.array_equal(found.pixels, alone[id(photo)].pixels)
            assert found.faces == alone[id(photo)].faces


def test_no_photos(standard: Filter) -> None:
    """An empty batch is no error."""
    assert protect_batch([], standard) == []


def test_photo_without_faces(standard: Filter) -> None:
    """Without a face the outcome says so, and every pixel is the source's own, also in the file."""
    pixels = np.random.default_rng(0).integers(0, 256, (70, 110, 3), dtype=np.uint8)
    data = saved(pixels)
    protected = protect_batch([decode(data)], standard)[0]
    assert (protected.outcome, protected.faces) == ("no_face", ())
    assert np.array_equal(protected.pixels, pixels)
    found = protect_photo(data, standard)
    assert (found.outcome, found.faces) == ("no_face", ())
    assert np.array_equal(np.asarray(opened(found.data)), pixels)


@pytest.mark.parametrize("kind", FORMATS)
def test_same_format_and_size_out(standard: Filter, head: np.ndarray, kind: str) -> None:
    """A file of each format comes back as that format and size, protected, with its sizes told."""
    data = saved(head, kind)
    found = protect_photo(data, standard)
    image = opened(found.data)
    assert (image.format, image.size) == (kind, (256, 256))
    assert (found.outcome, len(found.faces)) == ("protected", 1)
    assert (found.width, found.height) == (256, 256)
    assert (found.bytes_in, found.bytes_out) == (len(data), len(found.data))
    box = [round(edge) for edge in found.faces[0].box]
    before, after = (np.asarray(picture).astype(int) for picture in (opened(data), image))
    moved = np.abs(after - before)[box[1] : box[3], box[0] : box[2]]
    assert moved.mean() > 0.5


def test_lossless_file_keeps_the_bound(standard: Filter, head: np.ndarray) -> None:
    """What a PNG holds afterwards is within the bound, and is what the pipeline computed."""
    data = saved(head)
    pixels = np.asarray(opened(protect_photo(data, standard).data))
    assert np.array_equal(pixels, protect_batch([decode(data)], standard)[0].pixels)
    assert np.abs(pixels.astype(int) - head).max() <= Bound.of(standard.recipe).most


def test_whole_group_photo(standard: Filter, group_photo: bytes) -> None:
    """The real JPEG comes out as a JPEG of its own size within 15 % of its bytes, with six protected faces."""
    found = protect_photo(group_photo, standard)
    image = opened(found.data)
    assert (image.format, image.size) == ("JPEG", opened(group_photo).size) and len(found.faces) == 6
    assert found.bytes_out == pytest.approx(found.bytes_in, rel=0.15)


def test_turned_photo(standard: Filter, head: np.ndarray) -> None:
    """A photo stored on its side is protected upright, at the same pixels as one stored upright."""
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rows run down the right side
    buffer = io.BytesIO()
    Image.fromarray(np.rot90(head).copy()).save(buffer, "PNG", exif=exif)
    turned, upright = (protect_photo(data, standard) for data in (buffer.getvalue(), saved(head)))
    assert turned.faces == upright.faces
    assert np.array_equal(np.asarray(opened(turned.data)), np.asarray(opened(upright.data)))


@pytest.mark.parametrize("kind", FORMATS)
def test_grey_stays_grey(standard: Filter, head: np.ndarray, kind: str) -> None:
    """A grey photo is protected without a trace of colour."""
    grey = np.asarray(Image.fromarray(head).convert("L"))
    found = protect_photo(saved(grey, kind), standard)
    pixels = np.asarray(opened(found.data).convert("RGB")).astype(int)
    assert found.outcome == "protected"
    assert np.ptp(pixels, axis=2).max() == 0
    assert np.abs(pixels[..., 0] - grey).max() > 2


def test_transparency_is_kept(standard: Filter, head: np.ndarray) -> None:
    """The alpha channel is carried over as it was."""
    alpha = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    found = protect_photo(saved(np.dstack([head, alpha])), standard)
    assert found.outcome == "protected"
    assert np.array_equal(np.asarray(opened(found.data))[..., 3], alpha)


def test_clock_takes_each_stage(standard: Filter, head: np.ndarray) -> None:
    """The clock gets the seconds of detection, alignment, the three modules and pasting."""
    clock = StageClock()
    protect_batch([decode(saved(head))], standard, clock)
    assert set(clock.seconds) == {"detect", "align", "gradient", "transfer", "universal", "paste"}


def test_unfit_photos_are_refused(standard: Filter, head: np.ndarray) -> None:
    """Damaged bytes and photos over the limits raise the photo's errors; nothing comes out."""
    with pytest.raises(CorruptPhoto):
        protect_photo(saved(head, "JPEG")[:2000], standard)
    with pytest.raises(PhotoTooLarge):
        protect_photo(saved(head), standard, limits=Limits(max_pixels=1000))


def test_sources_are_not_written_to(standard: Filter, head: np.ndarray) -> None:
    """A photo whose pixels are read-only can be protected: the pipeline works on a copy."""
    photo = decode(saved(head))
    frozen = photo.pixels.copy()
    frozen.flags.writeable = False
    found = protect_batch([replace(photo, pixels=frozen)], standard)[0]
    assert found.outcome == "protected" and np.array_equal(frozen, head)


def test_modules_alone_warp(head: np.ndarray) -> None:
    """Without steps points shift, too, along the gradient stage's momentum; a recipe's `warp_percent` of 0 is none."""
    photo, modules = decode(saved(head)), Filter.load("modules")
    (own,) = hide_faces([photo], modules)
    (one,) = own.hidden
    assert modules.recipe.steps == 0 and one.change.field is not None and np.abs(one.change.field).max() > 0.9
    warped, still = (
        protect_batch([photo], chosen)[0].pixels.astype(int) for chosen in (modules, without_warp(modules))
    )
    most = Bound.of(modules.recipe).most
    assert np.abs(warped - head).max() > most >= np.abs(still - head).max()
