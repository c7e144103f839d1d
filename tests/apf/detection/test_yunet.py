"""YuNet: fetched by digest, and decoded as OpenCV decodes it. A stand-in has its file's inputs and outputs."""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from apf.detection import detector as detectors
from apf.detection import yunet
from apf.detection.detector import Detector, load_detector
from apf.errors import DetectorError, DetectorUnreachable
from apf.faces.alignment import ARCFACE_TEMPLATE
from apf.filters.load import load_filter
from apf.guides import catalogue
from apf.guides.catalogue import YUNET, Known, fetched_path
from apf.guides.download import find_known
from apf.private.device import Device
from apf.recipe import load_recipe
from producer.doctor import checks as doctor
from workers.config.settings import Settings

#: Of the stand-in's face, in cells of the grid that sees it: width and height.
SIZE = (2.0, 2.5)


def stand_in() -> onnx.ModelProto:
    """A network like YuNet, that says 640 x 640. Sees a face, two cells wide, in each cell of 8 pixels that is red all
    over, of 16 that is green, and of 32 that is blue.
    """
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, (1, 3, 640, 640))
    points = (ARCFACE_TEMPLATE - (56, 64)) / 112 * SIZE + 0.5
    constants = {
        # Red, green and blue, of blue, green and red: 1 where it is pure, else below.
        "weight": (2 * np.eye(3, dtype=np.float32)[::-1] - 1).reshape(3, 3, 1, 1) / 255,
        "bbox": np.array([0.5, 0.5, *np.log(SIZE)], np.float32),
        "kps": points.astype(np.float32).ravel(),
        **{f"shape{n}": np.array([1, -1, n]) for n in (1, 4, 10)},
    }
    nodes = [
        helper.make_node("Conv", ["input", "weight"], ["colours"]),
        helper.make_node("Split", ["colours"], ["c8", "c16", "c32"], axis=1),
    ]
    outputs = []
    for stride in (8, 16, 32):
        cells = (640 // stride) ** 2
        size = {"kernel_shape": [stride] * 2, "strides": [stride] * 2}
        nodes.append(helper.make_node("AveragePool", [f"c{stride}"], [f"p{stride}"], **size))
        nodes += [helper.make_node("Reshape", [f"p{stride}", "shape1"], [f"{n}_{stride}"]) for n in ("cls", "obj")]
        for name, width in (("bbox", 4), ("kps", 10)):
            nodes.append(helper.make_node("Sub", [f"cls_{stride}", f"cls_{stride}"], [f"{name}_{stride}_0"]))
            nodes.append(helper.make_node("Add", [f"{name}_{stride}_0", name], [f"{name}_{stride}_1"]))
            nodes.append(helper.make_node("Reshape", [f"{name}_{stride}_1", f"shape{width}"], [f"{name}_{stride}"]))
        widths = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
        outputs += [(f"{n}_{stride}", (1, cells, width)) for n, width in widths.items()]
    graph = helper.make_graph(
        nodes,
        "yunet",
        [given],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    onnx.checker.check_model(model)
    return model


class Served(SimpleHTTPRequestHandler):
    """Files of a folder; counts what is asked."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """YuNet is the stand-in, which a server on loopback has; yields the paths that it was asked for."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    (tmp_path / "www").mkdir()
    data = stand_in().SerializeToString()
    (tmp_path / "www" / "yunet.onnx").write_bytes(data)
    paths: list[str] = []
    handler = partial(type("Counting", (Served,), {"asked": paths}), directory=str(tmp_path / "www"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/yunet.onnx"
    know(monkeypatch, replace(YUNET, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data), url=url))
    yield paths
    server.shutdown()
    server.server_close()
    thread.join()


def know(monkeypatch: pytest.MonkeyPatch, known: Known) -> None:
    """Every module knows YuNet as this."""
    monkeypatch.setattr(yunet, "YUNET", known)
    monkeypatch.setitem(catalogue.DETECTORS, "yunet", known)


@pytest.fixture
def light(asked: list[str]) -> Detector:
    return load_detector("yunet")


def photo(*faces: tuple[int, int, int], shape: tuple[int, int] = (480, 640)) -> np.ndarray:
    """A grey photo with squares at x, y with a side, in the colour of the grid that sees such; the first are purest."""
    pixels = np.full((*shape, 3), 90, np.uint8)
    for number, (x, y, side) in enumerate(faces):
        pixels[y : y + side, x : x + side] = 0
        pixels[y : y + side, x : x + side, 0 if side < 16 else 1 if side < 32 else 2] = 255 - 5 * number
    return pixels


def test_it_is_fetched_once(asked: list[str]) -> None:
    """The first that asks for it fetches it to where guides lie; the next takes it from there."""
    load_detector("yunet")
    assert asked == ["/yunet.onnx"] and fetched_path(yunet.YUNET).is_file()
    load_detector("yunet")
    assert asked == ["/yunet.onnx"]


def test_what_has_another_digest_is_refused(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names both digests and the command that takes the file from elsewhere; nothing is kept."""
    know(monkeypatch, replace(yunet.YUNET, sha256="0" * 64))
    with pytest.raises(DetectorError, match=r"(?s)'yunet' cannot be had: .*SHA-256.*apf guides pull yunet --from"):
        load_detector("yunet")
    assert list(fetched_path(yunet.YUNET).parent.iterdir()) == []


def test_without_a_network_the_error_is_the_detectors(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file cannot be fetched a worker is told so, and that a later try may help."""
    know(monkeypatch, replace(yunet.YUNET, url="http://127.0.0.1:9/yunet.onnx"))
    with pytest.raises(DetectorUnreachable, match=r"'yunet' cannot be had: http://127\.0\.0\.1:9/"):
        load_detector("yunet")


def test_a_file_that_is_no_network_is_refused(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that has the digest and cannot be run is told by its path."""
    know(monkeypatch, replace(yunet.YUNET, sha256=hashlib.sha256(b"no network").hexdigest()))
    path = fetched_path(yunet.YUNET)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no network")
    with pytest.raises(DetectorError, match=str(path)):
        load_detector("yunet")


def test_the_real_file_is_known_by_its_digest() -> None:
    """OpenCV Zoo's file of 232,589 bytes, by the command for guides, though it is none of them."""
    assert find_known("yunet") is YUNET
    assert (YUNET.bytes, YUNET.sha256[:16], YUNET.licence) == (232_589, "8f2383e4dd3cfbb4", "MIT")
    assert YUNET.url.endswith("/face_detection_yunet/face_detection_yunet_2023mar.onnx")
    assert "yunet" not in catalogue.FETCHED


@pytest.mark.parametrize("shape", [(480, 640), (300, 500), (31, 33), (1, 700), (128, 1000)])
def test_faces_are_those_that_opencv_decodes(light: Detector, shape: tuple[int, int]) -> None:
    """OpenCV's FaceDetectorYN, given the same file and photo of any size, finds the same boxes, points and scores."""
    squares = [(64, 96, 8), (192, 32, 16), (320, 128, 32), (0, 0, 8), (480, 192, 32), (632, 472, 8)]
    picture = photo(*squares, shape=shape)
    theirs = cv2.FaceDetectorYN.create(str(fetched_path(yunet.YUNET)), "", shape[::-1], yunet.THRESHOLD, 0.3)
    [found] = yunet.YuNet().find([picture])
    expected = theirs.detect(np.ascontiguousarray(picture[..., ::-1]))[1]
    rows = np.zeros((0, 15), np.float32) if expected is None else expected
    whole = sum(x + side <= shape[1] and y + side <= shape[0] for x, y, side in squares)
    assert len(found.boxes) == len(rows) >= whole >= (6 if shape == (480, 640) else 0)
    corners = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
    np.testing.assert_allclose(found.boxes, np.clip(corners, 0, [*shape[::-1], *shape[::-1]]), atol=1e-3)
    np.testing.assert_allclose(found.landmarks.reshape(-1, 10), rows[:, 4:14], atol=1e-3)
    np.testing.assert_allclose(found.scores, rows[:, 14], atol=1e-5)


@pytest.mark.parametrize(("megapixels", "side"), [(0.3, 16), (1, 8), (4, 64), (12, 128)])
def test_faces_of_a_photo_of_any_size(light: Detector, megapixels: float, side: int) -> None:
    """Through levels and tiles a face comes back at its place in the photo, and one where tiles overlap once."""
    height = round(math.sqrt(megapixels * 1e6 / 1.5) / side) * side
    width = round(height * 1.5 / side) * side
    x, y = width // 2 // side * side, height // 4 // side * side
    [faces] = light.detect([photo((x, y, side), shape=(height, width))])
    near = [face for face in faces if abs(face.landmarks[2][0] - x - side / 2) < side]
    assert near, faces
    assert all(abs(face.landmarks[2][1] - y - side / 2) < side for face in near)
    best = near[0]
    assert best.landmarks[0][0] < best.landmarks[1][0] and best.landmarks[0][1] < best.landmarks[3][1]
    assert not best.guessed


def test_a_result_does_not_depend_on_the_batch(light: Detector) -> None:
    """A photo gives the same faces, bit for bit, alone and among others; none gives none."""
    photos = [photo((64, 96, 16)), photo(), photo((128, 96, 32), shape=(333, 777))]
    together = light.detect(photos)
    assert together == [light.detect([one])[0] for one in photos]
    assert [len(faces) > 0 for faces in together] == [True, False, True] and light.detect([]) == []


def test_it_sees_red_as_red(light: Detector) -> None:
    """The network is fed blue first, as OpenCV feeds it: a small blue square is no face of the stand-in."""
    assert light.detect([np.ascontiguousarray(photo((64, 96, 8))[..., ::-1])]) == [[]]


def test_a_filter_and_the_devices_client_run_it(asked: list[str], tmp_path: Path) -> None:
    """A recipe that names it has an id of its own, and both sides that protect photos find faces by it."""
    recipe = load_recipe("modules", detector="yunet")
    assert recipe.id != load_recipe("modules").id
    for found in (load_filter(recipe, device="cpu").detector, Device(recipe, b"k" * 32)._detector):
        assert len(found.detect([photo((64, 96, 16))])[0]) == 1
    assert asked == ["/yunet.onnx"]


def test_on_a_gpu_it_runs_beside_it(asked: list[str]) -> None:
    """It is loaded on the CPU whatever the device, as it needs no more than that."""
    assert len(load_detector("yunet", "cuda:0").detect([photo((64, 96, 16))])[0]) == 1


def test_the_default_fetches_nothing(asked: list[str]) -> None:
    """CenterFace comes with the package, and asks nobody."""
    assert detectors.load_light_detector("centerface") is not None
    assert detectors.load_light_detector("buffalo_l") is None
    assert asked == []


def test_the_doctor_tells_whether_it_is_here(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the settings name it, from where it will come, until it has; nothing where they do not."""
    assert told(monkeypatch, "centerface") == []
    [before] = told(monkeypatch, "yunet")
    assert f"fetched on first use, from {yunet.YUNET.url}" in before and "apf guides pull yunet --from FILE" in before
    load_detector("yunet")
    assert told(monkeypatch, "yunet") == ["yunet: here"]


def told(monkeypatch: pytest.MonkeyPatch, name: str) -> list[str]:
    monkeypatch.setenv("APF_DETECTOR", name)
    return [one.detail for one in doctor.examine(Settings(), []) if one.check == "detector"]


@pytest.mark.skipif(not fetched_path(YUNET).is_file(), reason="YuNet's own file is not here: apf guides pull yunet")
def test_the_real_file_finds_six_faces(group_photo: bytes) -> None:
    """The network itself finds each person of the group photo once."""
    picture = cv2.cvtColor(cv2.imdecode(np.frombuffer(group_photo, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert len(load_detector("yunet").detect([picture])[0]) == 6
