"""The files of private mode: whole, alike, and silent about the photo; anything else is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from apf.errors import PrivateFileError
from apf.private import files
from apf.private.files import Gradients, Perturbations, Terms, decode, looks_private, read_private
from apf.private.quantise import BITS
from apf.recipe import VERSION, load_recipe
from tests.apf.photo.photos import FORMATS, portrait, save

ID = "0123456789abcdef" * 2
TERMS = Terms.of(load_recipe("standard"))


def gradients(faces: int = 2, seed: int = 0, **reduction: Any) -> Gradients:
    values = np.random.default_rng(seed).uniform(-1, 1, (faces, 6, 112, 112)).astype(np.float32)
    return Gradients.of(ID, TERMS, values, **reduction)


def perturbations(faces: int = 2) -> Perturbations:
    units = np.random.default_rng(1).integers(-127, 128, (faces, 3, 112, 112), np.int8)
    return Perturbations(ID, TERMS, units)


def header(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return found


def forged(data: bytes, **metadata: str) -> bytes:
    """The file with other metadata."""
    array = safetensors.numpy.load(data)
    return safetensors.numpy.save(array, {**header(data)["__metadata__"], **metadata})


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("momentum", [True, False])
@pytest.mark.parametrize("faces", [0, 1, 3])
def test_gradients_come_back(bits: int, momentum: bool, faces: int) -> None:
    """All that a gradient file says is read back, also of a photo without a face."""
    sent = gradients(faces, bits=bits, momentum=momentum, noise=0.1234567, seed=1, name="kids/Zoë 1.jpg")
    found = Gradients.decode(sent.encode())
    assert (found.id, found.terms, found.bits, found.noise, found.name) == (ID, TERMS, bits, 0.1234567, sent.name)
    assert found.reduction == sent.reduction and found.faces == faces
    np.testing.assert_array_equal(found.packed, sent.packed)
    assert isinstance(decode(sent.encode()), Gradients)


@pytest.mark.parametrize("faces", [0, 1, 3])
def test_perturbations_come_back(faces: int) -> None:
    """All that a perturbation file says is read back."""
    sent = perturbations(faces)
    found = decode(sent.encode())
    assert isinstance(found, Perturbations)
    assert (found.id, found.terms, found.faces) == (ID, TERMS, faces)
    np.testing.assert_array_equal(found.units, sent.units)


def test_perturbations_are_rounded_to_half_a_unit() -> None:
    """Written and read, a perturbation is off by half a unit at most, 1/254 of epsilon, and never beyond epsilon."""
    epsilon = TERMS.epsilon_levels / 255
    deltas = np.random.default_rng(0).uniform(-epsilon, epsilon, (2, 3, 112, 112)).astype(np.float32)
    found = Perturbations.of(gradients(), deltas).values()
    assert np.abs(found - deltas).max() <= epsilon / 254 * 1.001
    assert np.abs(found).max() <= epsilon


@pytest.mark.parametrize("unit", [-128, -127, 127])
@pytest.mark.parametrize("levels", [1, 8, 255])
def test_no_file_holds_more_than_epsilon(unit: int, levels: int) -> None:
    """Whatever whole numbers a server writes, no value read is larger than epsilon, in float32 either."""
    terms = replace(TERMS, epsilon_levels=levels)
    values = Perturbations(ID, terms, np.full((1, 3, 112, 112), unit, np.int8)).values()
    assert np.abs(values).max() <= levels / 255
    assert np.abs(values).max() == pytest.approx(levels / 255, rel=1e-5)


def test_equal_files_have_equal_bytes() -> None:
    """The same content is the same bytes, twenty times over; another content is not."""
    assert len({gradients(noise=0.5, seed=3).encode() for _ in range(20)}) == 1
    assert len({perturbations().encode() for _ in range(20)}) == 1
    assert gradients(seed=1).encode() != gradients(seed=2).encode()


def test_any_safetensors_reader_reads_them() -> None:
    """The files are plain safetensors: one array under its documented name, aligned for readers that map files."""
    assert set(safetensors.numpy.load(gradients().encode())) == {"gradients"}
    assert set(safetensors.numpy.load(perturbations().encode())) == {"perturbations"}
    for name in ("", "a", "ab", "abc"):
        assert int.from_bytes(gradients(name=name).encode()[:8], "little") % 8 == 0


@pytest.mark.parametrize("name", ["", "anna.jpg"])
def test_a_file_says_no_more_than_documented(name: str) -> None:
    """In clear a file holds its format, terms and id, the cut, and a name where one was asked for; then the array."""
    data = gradients(name=name).encode()
    told = header(data)
    facts = {"format", "version", "id", "epsilon_levels", "stages", "weights", "recipe_version"}
    assert set(told) == {"__metadata__", "gradients"}
    assert set(told["__metadata__"]) == facts | {"bits", "noise"} | ({"name"} if name else set())
    assert set(header(perturbations().encode())["__metadata__"]) == facts
    values = 2 * 6 * 112 * 112
    assert told["gradients"]["data_offsets"] == [0, values]
    assert len(data) == 8 + int.from_bytes(data[:8], "little") + values
    assert len(data) < values + 512 + 8


def _shaped(array: np.ndarray) -> Callable[[], bytes]:
    return lambda: safetensors.numpy.save({"gradients": array}, header(gradients().encode())["__metadata__"])


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "no safetensors file"),
    "zeros": (lambda: bytes(100), "no safetensors file"),
    "cut off": (lambda: gradients().encode()[:-1], "damaged"),
    "longer": (lambda: gradients().encode() + b"\0", "damaged"),
    "cut off in its header": (lambda: gradients().encode()[:200], "no safetensors file"),
    "without metadata": (lambda: safetensors.numpy.save({"gradients": np.zeros(3)}), "no safetensors file"),
    "foreign": (lambda: safetensors.numpy.save({"x": np.zeros(3)}, {"format": "pt"}), "but pt"),
    "the other kind": (lambda: perturbations().encode(), "no apf-gradient but apf-perturbation"),
    "another version": (lambda: forged(gradients().encode(), version="2"), "version 2 .* 1 is known"),
    "another id": (lambda: forged(gradients().encode(), id="../../etc/passwd"), "proper id"),
    "an id with a line": (lambda: forged(gradients().encode(), id=ID + "\n"), "proper id"),
    "no epsilon": (lambda: forged(gradients().encode(), epsilon_levels="much"), "damaged"),
    "epsilon zero": (lambda: forged(gradients().encode(), epsilon_levels="0"), "epsilon_levels '0' is none"),
    "epsilon beyond": (lambda: forged(gradients().encode(), epsilon_levels="256"), "epsilon_levels '256' is none"),
    "epsilon in Arabic": (lambda: forged(gradients().encode(), epsilon_levels="٨"), "epsilon_levels .*u0668' is none"),
    "an unknown stage": (lambda: forged(gradients().encode(), stages="gradient magic"), "stages .*magic' is none"),
    "no stage": (lambda: forged(gradients().encode(), stages=""), "stages '' is none"),
    "short weights": (lambda: forged(gradients().encode(), weights="0" * 63), "weights '000"),
    "weights in capitals": (lambda: forged(gradients().encode(), weights="A" * 64), "weights 'AAA"),
    "weights of a later line": (lambda: forged(gradients().encode(), weights="0" * 64 + "\n"), "weights '000"),
    "a recipe's version": (lambda: forged(gradients().encode(), recipe_version="-1"), "recipe_version '-1' is none"),
    "three bits": (lambda: forged(gradients().encode(), bits="3"), "has 3 bits"),
    "other bits": (lambda: forged(gradients().encode(), bits="4"), "gradients are"),
    "endless noise": (lambda: forged(gradients().encode(), noise="inf"), "noise is 'inf'"),
    "noise of no number": (lambda: forged(gradients().encode(), noise="nan"), "noise is 'nan'"),
    "a large header": (lambda: forged(gradients().encode(), name="x" * 9000), "no safetensors file"),
    "floats": (_shaped(np.zeros((1, 6, 112, 112), np.float32)), "float32"),
    "flat": (_shaped(np.zeros(6 * 112 * 112, np.uint8)), "gradients are"),
    "five channels": (_shaped(np.zeros((1, 5, 112, 112), np.uint8)), "gradients are"),
    "smaller": (_shaped(np.zeros((1, 6, 100, 112), np.uint8)), "gradients are"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_gradient_file_is_refused(case: str) -> None:
    """Damaged, foreign and forged files: one error, which says what is wrong."""
    make, reason = REFUSED[case]
    with pytest.raises(PrivateFileError, match=reason):
        Gradients.decode(make())


@pytest.mark.parametrize(
    "text", ["\x1b]0;owned\x07\x1b[2J", "x" * 7000, "٣\u202e\n"], ids=["escapes", "long", "foreign"]
)
@pytest.mark.parametrize(
    "field", ["format", "version", "id", "epsilon_levels", "stages", "weights", "recipe_version", "bits", "noise"]
)
def test_foreign_texts_are_told_short_and_harmless(field: str, text: str) -> None:
    """Whatever text a file holds, its error is one short line of plain characters that no terminal obeys."""
    with pytest.raises(PrivateFileError) as raised:
        Gradients.decode(forged(gradients().encode(), **{field: text}))
    told = str(raised.value)
    assert told.isascii() and told.isprintable() and len(told) < 250


@pytest.mark.parametrize(
    "units",
    [np.zeros((1, 3, 112, 112), np.uint8), np.zeros((1, 6, 112, 112), np.int8), np.zeros((3, 112, 112), np.int8)],
    ids=["unsigned", "six channels", "one face"],
)
def test_what_is_no_perturbation_file_is_refused(units: np.ndarray) -> None:
    """A perturbation file has int8 of three channels for each face."""
    data = safetensors.numpy.save({"perturbations": units}, header(perturbations().encode())["__metadata__"])
    with pytest.raises(PrivateFileError, match="perturbations are"):
        Perturbations.decode(data)
    with pytest.raises(PrivateFileError, match="no apf-perturbation but apf-gradient"):
        Perturbations.decode(gradients().encode())


def test_an_array_more_is_refused() -> None:
    """A file that holds something beside its array was not made by APF, and might carry what nobody looks at."""
    data = gradients().encode()
    more = {**safetensors.numpy.load(data), "thumbnail": np.zeros((8, 8, 3), np.uint8)}
    with pytest.raises(PrivateFileError, match="holds more than gradients"):
        Gradients.decode(safetensors.numpy.save(more, header(data)["__metadata__"]))


def test_too_many_faces_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with more faces than the format allows is refused."""
    monkeypatch.setattr(files, "MAX_FACES", 2)
    Gradients.decode(gradients(2).encode())
    with pytest.raises(PrivateFileError, match="3 faces: 2 are the most"):
        Gradients.decode(gradients(3).encode())


@pytest.mark.parametrize("kind", FORMATS)
def test_photos_are_told_from_private_files(kind: str) -> None:
    """A photo of any format never looks like a file of private mode, and is refused as one; these always do."""
    photo = save(portrait(), kind)
    assert not looks_private(photo)
    with pytest.raises(PrivateFileError, match="no safetensors file"):
        decode(photo)
    assert looks_private(gradients().encode()) and looks_private(perturbations().encode())


SMALL = gradients(1, bits=1, momentum=False).encode()
HEADER = 8 + int.from_bytes(SMALL[:8], "little")


@given(st.binary(max_size=400), st.booleans())
def test_random_bytes_raise_nothing_else(data: bytes, with_header: bool) -> None:
    """Random bytes, and random bytes behind a length and a brace: PrivateFileError and no other error."""
    if with_header:
        data = len(data).to_bytes(8, "little") + b"{" + data
    with pytest.raises(PrivateFileError):
        decode(data)


@given(st.lists(st.tuples(st.integers(0, HEADER - 1), st.integers(0, 255)), min_size=1, max_size=3))
def test_flipped_bytes_raise_nothing_else(changes: list[tuple[int, int]]) -> None:
    """A file with bytes of its header changed is read, then with all its properties in range, or PrivateFileError."""
    data = bytearray(SMALL)
    for place, value in changes:
        data[place] = value
    try:
        found = Gradients.decode(bytes(data))
    except PrivateFileError:
        return
    assert found.faces == 1 and found.values().shape == (1, 6, 112, 112)
    found.encode()


def test_deep_headers_raise_nothing_else() -> None:
    """A header that nests as deep as its size allows is refused, not followed."""
    deep = b'{"a":' * 1500
    with pytest.raises(PrivateFileError):
        decode(len(deep).to_bytes(8, "little") + deep)


def test_terms_tell_their_difference() -> None:
    """Where two recipes mean different things the difference is named, and only that."""
    assert TERMS.difference(TERMS) == ""
    other = Terms.of(load_recipe("strong"))
    assert TERMS.difference(other) == "epsilon 8 and not 12"
    assert "weights" in TERMS.difference(replace(TERMS, weights="0" * 64, version=VERSION + 1))
    assert f"version {VERSION} and not {VERSION + 1}" in TERMS.difference(replace(TERMS, version=VERSION + 1))


ANSWER = perturbations().encode()


@given(
    st.lists(st.tuples(st.integers(0, 8 + int.from_bytes(ANSWER[:8], "little")), st.integers(0, 255)), max_size=6),
    st.integers(0, len(ANSWER)) | st.none(),
    st.binary(max_size=40),
)
def test_a_servers_answer_is_refused_or_bounded(changes: list[tuple[int, int]], cut: int | None, more: bytes) -> None:
    """Whatever a server answers, a device meets PrivateFileError, or perturbations of the known form within epsilon."""
    data = bytearray(ANSWER)
    for place, value in changes:
        data[place] = value
    try:
        found = Perturbations.decode(bytes(data[:cut]) + more)
    except PrivateFileError as error:
        assert str(error).isprintable()
        return
    assert found.units.shape[1:] == (3, 112, 112) and found.faces <= 4096
    assert np.abs(found.values()).max(initial=0) <= found.terms.epsilon_levels / 255


def test_no_more_of_an_answer_is_read_than_one_can_have(tmp_path: Path) -> None:
    """A file of a terabyte costs no more than the largest that could be meant, and is refused by its size."""
    large = tmp_path / "answer.safetensors"
    with large.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(PrivateFileError, match="over 308,289,544 bytes"):
        read_private(large)
    large.write_bytes(ANSWER)
    assert Perturbations.decode(read_private(large)).faces == perturbations().faces
