"""Recognisers that are asked: by name, or the user's own files, forwards only."""

from __future__ import annotations

import json
from pathlib import Path

import insightface
import numpy as np
import onnx
import pytest
from PIL import Image

from apf.attack.gradient_steps import identity
from apf.check.grouping import GROUPING, groups
from apf.check.recognisers import KNOWN, load_recogniser
from apf.detection.detector import load_detector
from apf.errors import GuideError, UnsupportedGuide
from apf.faces.alignment import align, alignment
from apf.guides import load_guide
from tests.apf.guides.networks import Net, face_network, network

T1 = Path(insightface.__file__).parent / "data" / "images" / "t1.jpg"


@pytest.fixture(scope="module")
def crops() -> list[np.ndarray]:
    """The six faces of InsightFace's photo, and the same six mirrored, in the same order."""
    pixels = np.asarray(Image.open(T1).convert("RGB"))
    faces = sorted(load_detector("centerface").detect([pixels])[0], key=lambda face: face.box[0])
    found = [align(pixels, alignment(face.landmarks)) for face in faces]
    return found + [np.ascontiguousarray(crop[:, :, ::-1]) for crop in found]


@pytest.mark.rotating
@pytest.mark.parametrize("name", sorted(KNOWN))
def test_known_recognisers_say_what_the_guides_of_that_name_say(name: str, crops: list[np.ndarray]) -> None:
    """The same vector as the steps climb on, by a road without gradients."""
    guide = load_guide(name)
    expected = np.stack([identity(guide, crop) for crop in crops[:2]])
    np.testing.assert_allclose(load_recogniser(name).identities(crops[:2]), expected, atol=2e-5)


def test_a_network_without_a_known_gradient_can_be_asked(tmp_path: Path) -> None:
    """As a guide it is refused; here it only has to run."""

    def body(net: Net, x: str) -> str:
        return str(net.add("Round", net.add("AveragePool", x, kernel_shape=[56, 56], strides=[56, 56])))

    path = tmp_path / "rounding.onnx"
    onnx.save(network(body, 12, shape=(3, 112, 112)), path)
    with pytest.raises(UnsupportedGuide):
        load_guide(str(path))
    found = load_recogniser(str(path), own=True).identities([np.ones((3, 112, 112), np.float32)])
    assert np.linalg.norm(found[0]) == pytest.approx(1)


def test_a_users_threshold_lies_beside_the_file(tmp_path: Path) -> None:
    """Beside `input`, in the file's own JSON or in models.json; without any it is left to be estimated."""
    path = face_network(tmp_path, "mine")
    assert load_recogniser(str(path)).marks is None
    (tmp_path / "models.json").write_text(json.dumps({"mine": {"input": {}, "threshold": 0.25}}))
    listed = load_recogniser(str(path)).marks
    (tmp_path / "mine.json").write_text(json.dumps({"input": {}, "threshold": 0.36}))
    own = load_recogniser(str(path)).marks
    assert listed and own
    assert (listed.usual, own.usual, own.origin) == (0.25, 0.36, "given")


@pytest.mark.parametrize("threshold", ["0.36", 36, None])
def test_a_threshold_that_is_no_cosine_is_refused(threshold: object, tmp_path: Path) -> None:
    """With what to write; none at all is none."""
    path = face_network(tmp_path, "mine")
    (tmp_path / "mine.json").write_text(json.dumps({"input": {}, "threshold": threshold}))
    if threshold is None:
        assert load_recogniser(str(path)).marks is None
        return
    with pytest.raises(GuideError, match=r"write a cosine, such as 0\.36"):
        load_recogniser(str(path))


def test_a_network_of_another_size_than_its_spec_says_so(tmp_path: Path) -> None:
    """Before any photo is looked at."""
    path = face_network(tmp_path, "small", side=96)
    with pytest.raises(GuideError, match="does not take faces as its spec says"):
        load_recogniser(str(path))


def test_a_network_with_two_outputs_is_refused(tmp_path: Path) -> None:
    """Nobody could say which one is the face."""
    model = network(lambda net, x: str(net.add("GlobalAveragePool", x)), 3, shape=(3, 112, 112))
    model.graph.output.append(onnx.helper.make_tensor_value_info("v0_0", onnx.TensorProto.FLOAT, ["N", 3, 1, 1]))
    onnx.save(model, tmp_path / "two.onnx")
    with pytest.raises(GuideError, match="1 inputs and 2 outputs"):
        load_recogniser(str(tmp_path / "two.onnx"))


def test_real_faces_are_grouped_by_person(crops: list[np.ndarray]) -> None:
    """Six people twice, the second time mirrored: six groups of two."""
    found = groups(crops, [load_recogniser(name) for name in GROUPING])
    assert found[:6] == found[6:] and len(set(found)) == 6
    assert groups(crops[:1], []) == [0] and groups([], []) == []
