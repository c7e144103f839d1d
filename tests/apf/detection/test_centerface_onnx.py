"""The light detector finds the faces that the torch one finds."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apf.detection import centerface_onnx
from apf.detection.centerface_onnx import LightCenterFace, light_detector
from apf.detection.centerface_torch import CenterFace
from apf.detection.detector import load_detector
from apf.detection.tiling import PyramidDetector
from apf.errors import DetectorError
from apf.faces import resampling
from apf.faces.alignment import Face


@pytest.fixture(scope="module")
def light() -> PyramidDetector:
    return light_detector()


@pytest.fixture(scope="module")
def photos(portrait: np.ndarray, group_photo: bytes) -> list[np.ndarray]:
    return [portrait, np.asarray(Image.open(io.BytesIO(group_photo)).convert("RGB"))]


@pytest.fixture(scope="module")
def expected(photos: list[np.ndarray]) -> list[list[Face]]:
    """The faces that the torch one finds."""
    return load_detector("centerface").detect(photos)


@pytest.mark.parametrize("opencv", [True, False], ids=["opencv", "numpy"])
def test_finds_the_same_faces(
    monkeypatch: pytest.MonkeyPatch,
    light: PyramidDetector,
    photos: list[np.ndarray],
    expected: list[list[Face]],
    opencv: bool,
) -> None:
    """One face and six, with landmarks and boxes to a hundredth of a pixel, with OpenCV and without."""
    assert [len(faces) for faces in expected] == [1, 6]
    if not opencv:
        monkeypatch.setattr(resampling, "cv2", None)
    for own, other in zip(light.detect(photos), expected, strict=True):
        assert len(own) == len(other)
        for mine, face in zip(own, other, strict=True):
            np.testing.assert_allclose(mine.landmarks, face.landmarks, atol=0.01)
            np.testing.assert_allclose(mine.box, face.box, atol=0.01)
            assert mine.score == pytest.approx(face.score, abs=1e-4)
            assert mine.guessed == face.guessed


@pytest.mark.parametrize("size", [(201, 333), (256, 255), (129, 190)])
def test_finds_the_same_faces_in_tiles_of_odd_sizes(portrait: np.ndarray, size: tuple[int, int]) -> None:
    """Tiles that are no multiples of 32 are filled up as the torch module fills them up: the same faces come out."""
    tile = portrait[: size[0], 100 : 100 + size[1]]
    (own,), (other,) = LightCenterFace().find([tile]), CenterFace("cpu").find([tile])
    assert len(other.scores) == 1
    for mine, theirs in zip(own, other, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=0.01)


@pytest.mark.parametrize("size", [(1, 1), (33, 7), (100, 260)])
def test_boxes_stay_inside_tiles_of_any_size(portrait: np.ndarray, size: tuple[int, int]) -> None:
    """Tiles that fill no multiple of 32, down to one pixel, are taken; what is found lies inside them."""
    (found,) = LightCenterFace().find([portrait[20 : 20 + size[0], 120 : 120 + size[1]]])
    assert (found.boxes >= 0).all() and (found.boxes <= [size[1], size[0]] * 2).all()
    assert len(found.boxes) == len(found.landmarks) == len(found.scores)


def test_damaged_weights_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A detector's file that cannot be read is a DetectorError that names it."""
    path = tmp_path / "centerface.onnx"
    path.write_bytes(b"damaged")
    monkeypatch.setattr(centerface_onnx, "weights_path", lambda: path)
    with pytest.raises(DetectorError, match=r"centerface\.onnx"):
        light_detector()
