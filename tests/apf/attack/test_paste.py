"""What `paste` promises for any changes of any faces in any photo."""

from __future__ import annotations

import random as stdlib_random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apf.attack import paste as paste_module
from apf.attack.bound import Bound
from apf.attack.canvas import Canvas
from apf.attack.outline import FACE_SIDE, face_mask
from apf.attack.paste import paste
from apf.attack.perturbation import KNOTS, Change, Drawing
from apf.faces.alignment import CROP, align, footprint
from apf.faces.geometry import intersection, scale_of
from tests.apf.attack.scenes import (
    STANDARD,
    STILL,
    Scene,
    busy_photo,
    change,
    face_at,
    inside_outline,
    moved,
    scenes,
    smooth_photo,
    still,
)


def pasted(scene: Scene, *, grey: bool = False) -> np.ndarray:
    return paste(scene.photo, scene.changes, scene.matrices, scene.allowed, grey=grey)


def allowed_map(scene: Scene) -> np.ndarray:
    """(H, W) whole levels: the largest bound of the faces that a pixel belongs to.

    In the bands that `paste` draws in: a bound half way between two levels is rounded by the last bit of its place.
    """
    found = np.zeros(scene.photo.shape[:2])
    patches = paste_module._patches(scene.photo, scene.changes, scene.matrices, scene.allowed, grey=False)
    for rect, inside in paste_module._bands(patches):
        for patch in inside:
            x1, y1, x2, y2 = part = intersection(patch.rect, rect)
            found[y1:y2, x1:x2] = np.maximum(found[y1:y2, x1:x2], patch.drawing.bound(part))
    return found


@settings(max_examples=150)
@given(scenes(), st.booleans())
def test_the_bound_is_exact_and_the_rest_is_left(scene: Scene, grey: bool) -> None:
    """Past the warp no pixel moves by more than its bound in whole levels, and none outside the outlines at all."""
    before = scene.photo.copy()
    out = pasted(scene, grey=grey)
    assert out.dtype == np.uint8 and out.shape == scene.photo.shape and not np.shares_memory(out, scene.photo)
    assert (scene.photo == before).all()
    warped = pasted(replace(scene, changes=[still(one) for one in scene.changes]), grey=grey)
    allowed = allowed_map(scene)
    assert (allowed == np.rint(allowed)).all() and allowed.max(initial=0) <= scene.allowed.most
    assert (moved(warped, out) <= allowed[..., None]).all()
    if not scene.allowed.warp or not any(one.field is not None for one in scene.changes):
        assert (warped == before).all()
    inside = np.zeros(before.shape[:2], bool)
    for one, matrix in zip(scene.changes, scene.matrices, strict=True):
        inside |= inside_outline(one, matrix, before.shape) & footprint(matrix, before.shape)
    assert (out[~inside] == before[~inside]).all()


@settings(max_examples=40)
@given(scenes(least=2), st.randoms(use_true_random=False))
def test_the_order_of_faces_does_not_matter(scene: Scene, random: stdlib_random.Random) -> None:
    """Faces in another order give the same photo, bit for bit, however they overlap."""
    order = list(range(len(scene.changes)))
    random.shuffle(order)
    other = replace(scene, changes=[scene.changes[i] for i in order], matrices=[scene.matrices[i] for i in order])
    assert (pasted(scene) == pasted(other)).all()


@settings(max_examples=40)
@given(scenes())
def test_a_grey_photo_stays_grey(scene: Scene) -> None:
    """With grey=True the three channels of a grey photo stay equal."""
    out = pasted(replace(scene, photo=np.repeat(scene.photo[..., :1], 3, axis=2)), grey=True)
    assert (out == out[..., :1]).all()


@settings(max_examples=30)
@given(scenes())
def test_no_change_changes_nothing(scene: Scene) -> None:
    """Zero noise and a field of zeros give the photo back, bit for bit."""
    nothing = [Change(one.noise * 0, None if one.field is None else one.field * 0) for one in scene.changes]
    assert (pasted(replace(scene, changes=nothing)) == scene.photo).all()


@settings(max_examples=40)
@given(
    places=st.lists(st.tuples(st.floats(20, 200), st.floats(20, 200), st.floats(20, 400)), min_size=1, max_size=3),
    warp=st.sampled_from([0.002, 0.008, 0.03]),
    seed=st.integers(0, 1000),
    strength=st.sampled_from([1.0, 30.0]),
)
def test_no_point_shifts_further_than_allowed(places: list, warp: float, seed: int, strength: float) -> None:
    """A photo whose colours are its coordinates tells where its points came from, where faces overlap, too."""
    y, x = np.mgrid[:220, :220]
    photo = np.ascontiguousarray(np.stack([x, y, x * 0], -1).astype(np.uint8))
    matrices = [face_at(*place, seed / 7) for place in places]
    changes = [still(change(seed + i, strength=strength)) for i in range(len(places))]
    out = paste(photo, changes, matrices, Bound(8, 0.45, warp))
    reach = max(warp * FACE_SIDE / scale_of(matrix) for matrix in matrices)
    # To whole levels, by cubic sampling at 32nds of a pixel, which bends slopes a little, and more at the photo's edge.
    away = np.hypot(*(out[..., :2].astype(float) - photo[..., :2]).transpose(2, 0, 1))[4:-4, 4:-4]
    assert away.max() <= reach + 0.5 * 2**0.5 + 0.15
    if (
        len(places) == 1
        and strength > 1
        and reach > 2
        and places[0][2] > 100
        and all(50 < at < 170 for at in places[0][:2])
    ):
        assert away.max() > 0.5 * reach


def test_a_field_shifts_as_far_as_allowed() -> None:
    """A field of ones shifts the middle of the face by the whole of what is allowed, along the template's diagonal."""
    x = np.arange(300)
    photo = np.ascontiguousarray(np.broadcast_to(np.clip(x - 22, 0, 255)[:, None], (300, 300, 3)).astype(np.uint8))
    one = Change(np.zeros((3, 8, 8), np.float32), np.ones((2, KNOTS, KNOTS), np.float32))
    out = paste(photo, [one], [face_at(150, 150, 240)], Bound(8, 0.45, 0.03))
    reach = 0.03 * FACE_SIDE * 240 / CROP
    assert out[150, 150, 0] - int(photo[150, 150, 0]) == pytest.approx(reach / 2**0.5, abs=0.6)


def test_a_warp_can_be_undone() -> None:
    """Sampled back along the shifts that a drawing says, the warped photo is the photo again, but for resampling."""
    photo, matrix, one = smooth_photo(300, 300), face_at(150, 150, 260, 0.2), still(change(3))
    out = paste(photo, [one], [matrix], STANDARD)
    assert moved(photo, out).max() > 8
    shift = Drawing(one, Canvas(photo, matrix, STANDARD), STANDARD, matrix).shift((0, 0, 300, 300))
    assert 0.5 < np.hypot(*shift.transpose(2, 0, 1)).max() <= STANDARD.warp * FACE_SIDE / scale_of(matrix) * 1.0001
    y, x = np.mgrid[:300, :300].astype(np.float32)
    back = paste_module.remap_cubic(out, x - shift[..., 0], y - shift[..., 1])
    assert np.abs(back - photo).max() < 4


@settings(max_examples=20)
@given(st.floats(80, 800), st.floats(-4, 4), st.integers(0, 1000))
def test_the_pasted_photo_aligns_to_the_perturbed_face(size: float, angle: float, seed: int) -> None:
    """Aligning the protected photo gives the face plus its noise in units of the bound, whatever the face's size."""
    side = round(1.5 * size) + 20
    photo, matrix = busy_photo(side, side), face_at(side / 2, side / 2, size, angle)
    small = np.random.default_rng(seed).uniform(-1, 1, (1, 14, 14)).astype(np.float32)
    noise = np.repeat(np.kron(small, np.ones((1, 8, 8), np.float32)), 3, 0)
    out = paste(photo, [Change(noise)], [matrix], STILL)
    wanted = noise * Canvas(photo, matrix, STILL).template_bound() / 255
    found = align(out, matrix) - align(photo, matrix)
    middle = np.s_[:, 12:-12, 12:-12]
    assert np.corrcoef(found[middle].ravel(), wanted[middle].ravel())[0, 1] > 0.9
    assert (found[middle] * wanted[middle]).sum() > 0.7 * np.square(wanted[middle]).sum()


def test_full_strength_inside_the_outline() -> None:
    """Only the outline's border is weakened: elsewhere each pixel moves by its whole bound."""
    photo, matrix = busy_photo(300, 300), np.array([[1.0, 0, -90], [0, 1, -80]])
    scene = Scene(photo, [Change(np.ones((3, CROP, CROP), np.float32))], [matrix], STILL)
    change, template = moved(photo, pasted(scene)), np.s_[80 : 80 + CROP, 90 : 90 + CROP]
    whole = (change == allowed_map(scene)[..., None]).all(2)[template]
    assert whole[face_mask(CROP) == 1].mean() > 0.99 and (face_mask(CROP) == 1).mean() > 0.5
    assert change.max() > 8


@pytest.mark.parametrize("size", [10, 4000])
def test_tiny_and_enormous_faces(size: int) -> None:
    """A face of ten pixels and one larger than the photo are both changed, within the bound."""
    photo = busy_photo(552, 700)
    out = paste(photo, [change(1)], [face_at(350, 270, size, 0.3)], STILL)
    assert 0 < moved(photo, out).max() <= STILL.most


@pytest.mark.parametrize("allowed", [STANDARD, STILL], ids=["warped", "not warped"])
def test_in_place_is_the_same_without_a_copy(allowed: Bound) -> None:
    """The photo itself is changed to what a copy would be; one that cannot be written to is copied."""
    photo, changes = busy_photo(300, 400), [change(2), change(3)]
    matrices = [face_at(200, 150, 220, 0.2), face_at(260, 190, 160, -0.3)]
    wanted = paste(photo, changes, matrices, allowed)
    fixed, open_ = photo.copy(), photo.copy()
    fixed.flags.writeable = False
    found = paste(open_, changes, matrices, allowed, in_place=True)
    assert found is open_
    assert (found == wanted).all() and (wanted != photo).any()
    assert (paste(fixed, changes, matrices, allowed, in_place=True) == wanted).all()
    assert (fixed == photo).all()


@pytest.mark.rotating
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("rows", [7, 64, 10_000])
def test_bands_leave_no_seam(monkeypatch: pytest.MonkeyPatch, rows: int, in_place: bool) -> None:
    """Large, overlapping and warped faces come out the same whatever the rows that are pasted at a time."""
    photo = busy_photo(500, 520)
    changes, matrices = [change(1), change(2)], [face_at(220, 230, 420, 0.1), face_at(400, 330, 200, 2)]
    wanted = paste(photo, changes, matrices, Bound(8, 0.45, 0.03))
    monkeypatch.setattr(paste_module, "BAND_ROWS", rows)
    found = paste(photo.copy(), changes, matrices, Bound(8, 0.45, 0.03), in_place=in_place)
    off = moved(wanted, found)
    # OpenCV counts places in 32nds of a pixel from where a piece begins.
    assert off.max() <= 1 and (off > 0).mean() < 1e-3


def test_paste_wants_a_matrix_for_each_change() -> None:
    """A face without its matrix is an error."""
    with pytest.raises(ValueError, match="1 changes for 0 matrices"):
        paste(smooth_photo(90, 90), [change(0)], [], STANDARD)


@settings(max_examples=20)
@given(scene=scenes(least=1))
def test_a_canvas_that_is_there_already_gives_the_same(scene: Scene) -> None:
    """Whether the steps' own canvases are handed on or made anew, some or all of them: the same photo, to the bit."""
    known = [Canvas(scene.photo, matrix, scene.allowed).without_steps() for matrix in scene.matrices]
    for canvases in (known, [*known[:-1], None]):
        found = paste(scene.photo, scene.changes, scene.matrices, scene.allowed, canvases=canvases)
        np.testing.assert_array_equal(found, pasted(scene))
