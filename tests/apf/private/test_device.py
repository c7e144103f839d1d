"""The device's two turns: what the private road publishes is what the photo's own road would."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from apf.attack.bound import Bound
from apf.errors import (
    CorruptPhoto,
    DetectorError,
    MissingExtra,
    OtherVersion,
    PhotoTooLarge,
    PrivateFileError,
    RecipeError,
    WeakPerturbation,
)
from apf.faces.alignment import align, alignment
from apf.filters.torch_filter import Filter
from apf.photo import Limits, decode
from apf.private.device import LEAST_FALL, Device
from apf.private.files import Gradients, Perturbations
from apf.private.quantise import Reduction
from apf.private.server import perturb
from apf.protect.pipeline import ProtectedPhoto, protect_photo
from apf.recipe import Recipe, load_recipe, make_recipe
from apf.stages.universal import bounded
from tests.apf.attack.scenes import without_warp
from tests.apf.photo.photos import reopen
from tests.apf.private.conftest import KEY, WHOLE, encoded, pixels_of


def answer_to(question: Gradients, filter: Filter) -> Perturbations:
    """What comes back, through both files."""
    return Perturbations.decode(perturb([Gradients.decode(question.encode())], filter)[0].encode())


def round_trip(device: Device, data: bytes, filter: Filter) -> ProtectedPhoto:
    return device.apply(data, answer_to(device.gradients(data), filter))


def own_road(photo: bytes, filter: Filter) -> ProtectedPhoto:
    """The own road, but for the warp, which a device without OpenCV cannot draw."""
    return protect_photo(photo, without_warp(filter))


@pytest.fixture(scope="module")
def portrait_answer(device: Device, standard: Filter, portrait_png: bytes) -> Perturbations:
    return answer_to(device.gradients(portrait_png), standard)


@pytest.mark.rotating
@pytest.mark.parametrize("name", ["light", "standard", "strong"])
def test_both_roads_give_the_same_portrait(filters: dict[str, Filter], portrait_png: bytes, name: str) -> None:
    """At 8 bits with momentum nine in ten of the face's pixels are the same on both roads.

    Of 1000, 999 differ by one level at most (two with `strong`), and none by more than half of epsilon.
    """
    _compare(Device(load_recipe(name), KEY, reduction=WHOLE), filters[name], portrait_png, faces=1)


def test_both_roads_give_the_same_group(device: Device, standard: Filter, group_png: bytes) -> None:
    """The same for six faces of many sizes, whose order is that of the file."""
    _compare(device, standard, group_png, faces=6)


def _compare(device: Device, filter: Filter, photo: bytes, *, faces: int) -> None:
    private, own = round_trip(device, photo, filter), own_road(photo, filter)
    assert len(private.faces) == len(own.faces) == faces
    assert (private.outcome, private.width, private.height) == (own.outcome, own.width, own.height)
    source, found, expected = (pixels_of(data).astype(int) for data in (photo, private.data, own.data))
    face = (expected != source).any(axis=2) | (found != source).any(axis=2)
    off = np.abs(found - expected).max(axis=2)[face]
    assert face.sum() > 10_000
    levels, most = filter.recipe.epsilon_levels, Bound.of(filter.recipe).most
    assert (off <= math.ceil(levels / 8)).mean() >= 0.999 and (off == 0).mean() > 0.9 and off.max() <= levels / 2
    assert most - 2 <= np.abs(found - source).max() <= most  # it is used, and not a level more


@pytest.mark.rotating
@pytest.mark.parametrize("name", ["light", "standard", "strong"])
def test_the_default_protects_as_well(filters: dict[str, Filter], portrait_png: bytes, name: str) -> None:
    """Of what leaves by default the server makes a perturbation that lowers the probe's similarity as far."""
    _lowers_as_far(Device(load_recipe(name), KEY), filters[name], portrait_png)


def test_the_default_protects_a_group_as_well(standard: Filter, group_photo: bytes) -> None:
    """The same for each of six faces in a JPEG; all pass the device's own check."""
    _lowers_as_far(Device(load_recipe("standard"), KEY), standard, group_photo)


def _lowers_as_far(device: Device, filter: Filter, photo: bytes) -> None:
    private, own = round_trip(device, photo, filter), own_road(photo, filter)
    for face in own.faces:
        crops = [align(pixels_of(data), alignment(face.landmarks)) for data in (photo, private.data, own.data)]
        known, one, other = (device._probe.embedding(crop) for crop in crops)
        assert one @ known < 0.7 and one @ known < other @ known + 0.1


def test_grey_stays_grey(device: Device, standard: Filter, portrait: np.ndarray) -> None:
    """A grey photo leaves as one channel, protected as the photo's own road protects it."""
    grey = np.asarray(Image.fromarray(portrait[:280, 90:370]).convert("L"))
    photo = encoded(grey)
    found, own = round_trip(device, photo, standard), own_road(photo, standard)
    assert reopen(found.data).mode == "L"
    off = np.abs(pixels_of(found.data).astype(int) - pixels_of(own.data))
    assert (off <= 1).mean() >= 0.999
    assert 0 < np.abs(pixels_of(found.data).astype(int) - pixels_of(photo)).max() <= Bound.of(standard.recipe).most


def test_grey_answers_are_judged_in_grey(
    monkeypatch: pytest.MonkeyPatch, device: Device, standard: Filter, portrait: np.ndarray
) -> None:
    """On a grey photo the check looks at what will be pasted: the answer's colours are averaged first.

    Where they cancel each other nothing is left, and the answer is refused.
    """
    photo = encoded(np.asarray(Image.fromarray(portrait[:280, 90:370]).convert("L")))
    answer = answer_to(device.gradients(photo), standard)
    seen: list[np.ndarray] = []
    embedding = device._probe.embedding
    monkeypatch.setattr(device._probe, "embedding", lambda face: seen.append(face) or embedding(face))
    device.apply(photo, answer)
    assert all(np.ptp(face, axis=0).max() < 1e-6 for face in seen)
    # Beside the face itself, what becomes of it by the device's own perturbation and by the answer.
    changed = [face for face in seen if np.abs(face - seen[0]).max() > 4 / 255]
    assert len(changed) == 2 and (changed[0] != changed[1]).any()
    red = np.sign(answer.units[:, :1].astype(int)) * 127
    cancelled = np.concatenate([red, -red, np.zeros_like(red)], 1).astype(np.int8)
    with pytest.raises(WeakPerturbation):
        device.apply(photo, replace(answer, units=cancelled))


def test_turned_photos_are_seen_upright(device: Device, standard: Filter, portrait: np.ndarray) -> None:
    """A photo that lies on its side, with an EXIF orientation, is protected upright, and its EXIF does not leave."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "A camera"
    photo = encoded(np.rot90(portrait[:280, 90:370]), "JPEG", quality=95, exif=exif)
    found, own = round_trip(device, photo, standard), own_road(photo, standard)
    assert len(found.faces) == 1 and (found.width, found.height) == (280, 280)
    assert b"A camera" not in found.data and not reopen(found.data).getexif()
    off = np.abs(decode(found.data).pixels.astype(int) - decode(own.data).pixels)
    assert (off <= 4).mean() > 0.999
    assert found.faces[0].landmarks[0][1] < found.faces[0].landmarks[3][1]  # eyes above the mouth


def test_jpegs_leave_by_the_same_policy(device: Device, standard: Filter, portrait: np.ndarray) -> None:
    """A JPEG leaves with the tables and sampling that the photo's own road gives it."""
    photo = encoded(portrait[:280, 90:370], "JPEG", quality=88, subsampling=0, comment=b"private comment")
    found, own = round_trip(device, photo, standard), own_road(photo, standard)
    one, other = reopen(found.data), reopen(own.data)
    assert one.format == "JPEG" and one.quantization == other.quantization and one.layer == other.layer
    assert b"private comment" not in found.data
    assert found.bytes_out == len(found.data) == pytest.approx(len(own.data), rel=0.02)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_photo_without_a_face(device: Device, standard: Filter, kind: str) -> None:
    """Without a face nothing of the photo leaves the device, and the bytes published are those of the own road."""
    photo = encoded(np.asarray(Image.linear_gradient("L").convert("RGB")), kind)
    question = device.gradients(photo)
    assert question.faces == 0
    found = device.apply(photo, answer_to(question, standard))
    assert found.outcome == "no_face" and found.faces == ()
    assert found.data == protect_photo(photo, standard).data


def test_gradients_say_nothing_but_themselves(device: Device, portrait: np.ndarray) -> None:
    """The file has no text of the photo, nor its size: only the name that was asked for, if one was."""
    photo = encoded(portrait[:280, 90:370], "JPEG", comment=b"taken in Rome")
    made = device.gradients(photo).encode()
    assert b"Rome" not in made and b"280" not in made[: made.index(b"}}")]
    assert b"anna.jpg" in device.gradients(photo, name="anna.jpg").encode()


def test_the_same_photo_gives_the_same_file(portrait_png: bytes) -> None:
    """Noise and all, a photo's file is always the same on its device, and another on another device."""
    reduction = Reduction(bits=4, noise=0.1234567)
    device = Device(load_recipe("standard"), KEY, reduction=reduction)
    made = device.gradients(portrait_png)
    assert made.encode() == device.gradients(portrait_png).encode()
    assert device.is_current(Gradients.decode(made.encode()))
    other = Device(load_recipe("standard"), bytes(32), reduction=reduction).gradients(portrait_png)
    assert other.id != made.id and (other.packed != made.packed).any()


def test_noise_of_two_spreads_does_not_cancel(portrait_png: bytes) -> None:
    """Two files of one photo with noise of two spreads do not add up to the gradient without noise."""
    clean, one, two = (
        Device(load_recipe("standard"), KEY, reduction=Reduction(noise=noise)).gradients(portrait_png).values()
        for noise in (0, 0.25, 0.5)
    )
    momentum = slice(3, 6)  # which is not cut off at 1
    undone = np.abs(2 * one - two - clean)[:, momentum].mean()
    assert undone > 0.9 * np.abs(one - clean)[:, momentum].mean()


def test_other_devices_and_recipes_make_other_files(device: Device, portrait_png: bytes) -> None:
    """A file of another recipe or reduction is known as not current."""
    made = device.gradients(portrait_png)
    assert device.is_current(made)
    assert not Device(load_recipe("strong"), KEY, reduction=WHOLE).is_current(made)
    for other in (replace(WHOLE, bits=4), replace(WHOLE, momentum=False), replace(WHOLE, noise=0.1)):
        assert not Device(load_recipe("standard"), KEY, reduction=other).is_current(made)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda a: replace(a, id="0" * 32), "another photo.*device key"),
        (lambda a: replace(a, terms=replace(a.terms, epsilon_levels=12)), "epsilon 12 and not 8"),
        (lambda a: replace(a, terms=replace(a.terms, stages=("gradient",))), "stages"),
        (lambda a: replace(a, terms=replace(a.terms, weights="0" * 64)), "weights"),
        (lambda a: replace(a, units=np.concatenate([a.units, a.units])), "2 faces, and 1 are found"),
        (lambda a: replace(a, units=a.units[:0]), "0 faces, and 1 are found"),
    ],
    ids=["id", "epsilon", "stages", "weights", "more faces", "no faces"],
)
def test_answers_to_something_else_are_refused(
    device: Device,
    portrait_png: bytes,
    portrait_answer: Perturbations,
    change: Callable[[Perturbations], Perturbations],
    reason: str,
) -> None:
    """An answer to another photo, of another recipe or for other faces is refused, also where weak ones are taken."""
    for accept_weak in (False, True):
        with pytest.raises(PrivateFileError, match=reason):
            device.apply(portrait_png, change(portrait_answer), accept_weak=accept_weak)


def test_an_edited_photo_is_another(device: Device, portrait: np.ndarray, portrait_answer: Perturbations) -> None:
    """An answer does not fit the photo after it was edited, be it by one pixel."""
    pixels = portrait[:280, 90:370].copy()
    pixels[0, 0] ^= 1
    with pytest.raises(PrivateFileError, match="the photo has changed"):
        device.apply(encoded(pixels), portrait_answer)


def weak_answers(device: Device, standard: Filter, faces: np.ndarray, question: Gradients) -> dict[str, np.ndarray]:
    """What a lazy or malicious server might send: (1, 3, 112, 112) int8 each."""
    other = standard.perturbation(torch.from_numpy(faces[1:2])).numpy()
    universal = standard.recipe.epsilon * bounded([standard.uap[None]]).numpy()
    random = np.random.default_rng(0).choice(np.array([-127, 127], np.int8), (1, 3, 112, 112))
    return {
        "zero": np.zeros((1, 3, 112, 112), np.int8),
        "of another face": Perturbations.of(question, other).units,
        "the universal alone": Perturbations.of(question, universal).units,
        "brighter": np.full((1, 3, 112, 112), 127, np.int8),
        "darker": np.full((1, 3, 112, 112), -128, np.int8),
        "noise": random,
    }


@pytest.mark.rotating
@pytest.mark.parametrize("kind", ["zero", "of another face", "the universal alone", "brighter", "darker", "noise"])
def test_answers_that_do_not_protect_are_refused(
    device: Device, standard: Filter, faces: np.ndarray, portrait_png: bytes, portrait_answer: Perturbations, kind: str
) -> None:
    """What protects less than the device could by itself is refused, with the face's place.

    `accept_weak` lets it through, but whatever was sent no pixel moves by more than the bound.
    """
    question = device.gradients(portrait_png)
    answer = replace(portrait_answer, units=weak_answers(device, standard, faces, question)[kind])
    with pytest.raises(WeakPerturbation, match=r"the face at x \d+ to \d+, y \d+ to \d+ less .* --accept-weak"):
        device.apply(portrait_png, answer)
    found = device.apply(portrait_png, answer, accept_weak=True)
    moved = np.abs(pixels_of(found.data).astype(int) - pixels_of(portrait_png))
    assert moved.max() <= Bound.of(standard.recipe).most and (moved.max() > 0) == (kind != "zero")


@pytest.mark.rotating
@pytest.mark.parametrize("name", ["light", "standard", "strong"])
def test_half_of_what_the_device_reaches_is_refused(portrait_png: bytes, name: str) -> None:
    """An answer that is the device's own perturbation is taken, and one that is half of it is not, by any recipe."""
    device = Device(load_recipe(name), KEY)
    question = device.gradients(portrait_png)
    own = np.stack([device._own(crop) for crop in device._look(portrait_png).crops])
    assert device.apply(portrait_png, Perturbations.of(question, own)).outcome == "protected"
    with pytest.raises(WeakPerturbation, match="apf private alone"):
        device.apply(portrait_png, Perturbations.of(question, own / 2))


@pytest.mark.rotating
@pytest.mark.parametrize("light", [0.25, 2.2], ids=["dark", "overexposed"])
@pytest.mark.parametrize("name", ["light", "standard", "strong"])
def test_badly_lit_faces_are_judged_by_what_is_possible(
    filters: dict[str, Filter], portrait: np.ndarray, name: str, light: float
) -> None:
    """On a dark and on an overexposed face the right answer to what leaves by default is taken, and none is not."""
    device, photo = Device(load_recipe(name), KEY), encoded(lit(portrait, light))
    question = device.gradients(photo)
    assert question.faces == 1
    answer = answer_to(question, filters[name])
    assert device.apply(photo, answer).outcome == "protected"
    with pytest.raises(WeakPerturbation):
        device.apply(photo, replace(answer, units=np.zeros_like(answer.units)))


def test_a_face_that_cannot_change_is_not_held_against_the_server(portrait: np.ndarray) -> None:
    """Where a face is so white that the device itself can hardly change it, no answer is refused for its effect."""
    device, photo = Device(load_recipe("light"), KEY), encoded(lit(portrait, 5))
    seen = device._look(photo)
    (crop,) = seen.crops
    assert device._fall(crop, device._probe.embedding(crop), device._own(crop), seen.photo) < LEAST_FALL
    nothing = Perturbations.of(device.gradients(photo), np.zeros((1, 3, 112, 112), np.float32))
    assert device.apply(photo, nothing).outcome == "protected"


def lit(portrait: np.ndarray, light: float) -> np.ndarray:
    """The portrait's face in another light, cut off where it is too bright."""
    return np.clip(portrait[:280, 90:370] * light, 0, 255).astype(np.uint8)


def test_only_photos_without_a_face_need_no_answer(device: Device, standard: Filter, portrait_png: bytes) -> None:
    """Without a face the photo is published as the photo's own road does it; with one, not without an answer."""
    plain = encoded(np.asarray(Image.linear_gradient("L").convert("RGB")), "JPEG")
    found = device.without_face(plain)
    assert found and (found.outcome, found.data) == ("no_face", protect_photo(plain, standard).data)
    assert device.without_face(portrait_png) is None


def test_one_face_unprotected_is_enough(device: Device, standard: Filter, group_png: bytes) -> None:
    """Of six faces one with another's perturbation makes the answer refused, and so do two that were swapped."""
    answer = answer_to(device.gradients(group_png), standard)
    units = answer.units.copy()
    units[[0, 1]] = units[[1, 0]]
    with pytest.raises(WeakPerturbation):
        device.apply(group_png, replace(answer, units=units))


@pytest.mark.rotating
@pytest.mark.parametrize("reduction", [Reduction(bits=4), Reduction(bits=2), Reduction(1, momentum=False)], ids=repr)
def test_right_answers_to_reduced_gradients_are_taken(
    standard: Filter, portrait_png: bytes, reduction: Reduction
) -> None:
    """The check does not refuse what the server makes of coarser gradients, down to signs alone."""
    found = round_trip(Device(load_recipe("standard"), KEY, reduction=reduction), portrait_png, standard)
    assert found.outcome == "protected"


def test_recipes_without_private_mode_are_refused() -> None:
    """A recipe that sends nothing of a photo has no private mode."""
    standard = load_recipe("standard")
    with pytest.raises(RecipeError, match="no gradient stage"):
        Device(standard.model_copy(update={"stages": ("universal",)}), KEY)


def test_a_device_takes_no_steps(portrait_png: bytes) -> None:
    """Steps on guides need the photo where the guides are: with them a recipe gives what it gives without."""
    recipes = [make_recipe({"name": "mine", "epsilon_levels": 8, "steps": steps}) for steps in (0, 2)]
    still, stepping = (Device(recipe, KEY).alone(portrait_png) for recipe in recipes)
    assert recipes[0].id != recipes[1].id and still.data == stepping.data


@pytest.mark.parametrize("field", [{"version": 99}, {"weights": "0" * 64}])
def test_recipes_of_other_versions_are_refused(field: dict[str, object]) -> None:
    """A recipe for other weights or code is refused as the filter refuses it: elsewhere it may be installed."""
    recipe: Recipe = load_recipe("standard").model_copy(update=field)
    for load in (lambda: Device(recipe, KEY), lambda: Filter.load(recipe)):
        with pytest.raises(OtherVersion, match="install the same version everywhere"):
            load()


def test_other_detectors_need_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another detector than the default one comes with another extra, which is named where it is missing."""
    recipe = load_recipe("standard", detector="no_such_pack")
    with pytest.raises(DetectorError, match="no_such_pack"):
        Device(recipe, KEY)
    monkeypatch.setattr("apf.extras.find_spec", lambda name: None if name == "onnxruntime" else True)
    with pytest.raises(MissingExtra, match=r"'no_such_pack' .*no onnxruntime.*pip install \"apf-protect\[cpu\]\""):
        Device(recipe, KEY)


def test_bad_photos_are_refused_on_both_turns(portrait_png: bytes, portrait_answer: Perturbations) -> None:
    """What is no photo, or too large a one, has the errors that it has on the server."""
    for limits, data, error in (
        (Limits(max_pixels=1000), portrait_png, PhotoTooLarge),
        (Limits(), portrait_png[:2000], CorruptPhoto),
        (Limits(), b"no photo", CorruptPhoto),
    ):
        device = Device(load_recipe("standard"), KEY, limits=limits)
        with pytest.raises(error):
            device.gradients(data)
        with pytest.raises(error):
            device.apply(data, replace(portrait_answer, id=device.photo_id(data)))


def test_protects_with_numpy_alone(
    monkeypatch: pytest.MonkeyPatch, device: Device, standard: Filter, portrait_png: bytes
) -> None:
    """Without OpenCV the same photo comes out, but for a level here and there."""
    expected = pixels_of(round_trip(device, portrait_png, standard).data).astype(int)
    monkeypatch.setattr("apf.faces.resampling.cv2", None)
    found = pixels_of(round_trip(device, portrait_png, standard).data)
    off = np.abs(found - expected)
    assert off.max() <= 3 and (off <= 1).mean() > 0.9999
