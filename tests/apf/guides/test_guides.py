"""Guides: found by name, fed as their specs say, and the same by ONNX Runtime and by torch."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from apf.errors import GuideError
from apf.faces.alignment import ARCFACE_TEMPLATE
from apf.guides import catalogue, dlib_file, load_guide, loading, parse_guides
from apf.guides.catalogue import DLIB, SFACE, Known, fetched_path
from apf.guides.dlib_file import read_dlib
from apf.guides.guide import Guide
from apf.guides.input_spec import InputSpec
from apf.guides.input_transform import Feeding
from apf.guides.loading import find_source
from apf.guides.torch_guide import torch_guide, torch_probe
from apf.guides.torch_recogniser import Recogniser
from tests.apf.guides.networks import face_network, network

WIDE = tuple((float(x) * 0.8 + 12, float(y) * 0.8 + 9) for x, y in ARCFACE_TEMPLATE)
SPEC = {"height": 90, "width": 90, "channel_order": "BGR", "mean": [1, 20, 30], "std": [2, 50, 9], "landmarks_xy": WIDE}


@pytest.fixture(scope="module")
def faces(crops: torch.Tensor) -> np.ndarray:
    """Four cuts of a photo."""
    return np.ascontiguousarray(crops[[0, 1, 2, 5]].numpy())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A small recogniser's file, fed otherwise than ArcFace's."""
    path = face_network(tmp_path, side=90)
    path.with_suffix(".json").write_text(json.dumps({"licence": "MIT", "input": SPEC}))
    return path


def apart(guide: Guide, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings, and the cosine to those of other faces with its gradient."""
    own = guide.embed(faces)
    return own, *guide.climb(faces, own[::-1].copy())


@pytest.mark.parametrize("name", ["dlib", "probe", "file"])
def test_both_ways_give_the_same(name: str, file: Path, faces: np.ndarray) -> None:
    """Embedding, cosine and gradient by ONNX Runtime and by torch."""
    other = (
        torch_probe("cpu")
        if name == "probe"
        else torch_guide(find_source(str(file) if name == "file" else name), "cpu")
    )
    guide = load_guide(str(file) if name == "file" else name)
    for found, wanted in zip(apart(guide, faces), apart(other, faces), strict=True):
        assert found.shape == wanted.shape
        assert found.dtype == np.float32
        # Where crops end, dlib's window is flat: a rounding error there decides which of two equal values is larger.
        assert np.linalg.norm(found - wanted) < 1e-2 * np.linalg.norm(wanted)
    assert (guide.name, guide.key, guide.digest) == (other.name, other.key, other.digest)


def test_the_gradient_is_that_of_the_cosine(file: Path, faces: np.ndarray) -> None:
    """A small step along it raises the cosine by as much as it says."""
    guide = load_guide(str(file))
    _, cosine, gradient = apart(guide, faces)
    step = gradient / np.linalg.norm(gradient.reshape(4, -1), axis=1).reshape(4, 1, 1, 1) * np.float32(0.05)
    moved, _ = guide.climb(faces + step, guide.embed(faces)[::-1].copy())
    promised = (gradient * step).sum((1, 2, 3))
    np.testing.assert_allclose(moved - cosine, promised, rtol=0.1, atol=2e-6)


def test_a_face_is_alone(file: Path, faces: np.ndarray) -> None:
    """To the bit: among others, alone, and with one reference for all; no face is no error."""
    for guide in (load_guide(str(file)), load_guide("probe")):
        own = guide.embed(faces)
        cosine, gradient = guide.climb(faces, own[0])
        for index in range(4):
            one = slice(index, index + 1)
            np.testing.assert_array_equal(guide.embed(faces[one])[0], own[index])
            alone, direction = guide.climb(faces[one], own[:1])
            np.testing.assert_array_equal(alone[0], cosine[index])
            np.testing.assert_array_equal(direction[0], gradient[index])
        assert guide.embed(faces[:0]).shape[0] == 0
        assert [len(part) for part in guide.climb(faces[:0], own[:0])] == [0, 0]
        with pytest.raises(ValueError, match=r"\(3, 112, 112\) float32"):
            guide.embed(faces[0])
        with pytest.raises(ValueError, match="float64"):
            guide.climb(faces.astype(np.float64), own)


def test_crops_are_fed_as_recognisers_are(faces: np.ndarray) -> None:
    """Sampled, in order, and scaled as `apf.guides.torch_recogniser` does it, whatever the spec."""

    class Shown(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    for spec in (InputSpec(), InputSpec.model_validate(SPEC), InputSpec.model_validate(DLIB.spec)):
        seen = torch.nn.functional.normalize(torch.from_numpy(Feeding(spec).there(faces[0])).flatten(1))
        wanted = Recogniser(Shown(), spec)(torch.from_numpy(faces[:1]))
        np.testing.assert_allclose(seen, wanted, atol=1e-6)


def test_feeding_back_is_the_transpose(faces: np.ndarray) -> None:
    """Of the linear part: the products of what was fed and what came back are equal."""
    feeding = Feeding(InputSpec.model_validate(SPEC))
    weights = np.random.default_rng(2).normal(size=(1, 3, 90, 90)).astype(np.float32)
    linear = feeding.there(faces[0]) - feeding.there(np.zeros_like(faces[0]))
    assert np.vdot(linear, weights) == pytest.approx(np.vdot(faces[0], feeding.back(weights)), rel=1e-3)


def test_no_torch_is_loaded(file: Path) -> None:
    """On a CPU, in a process of its own; dlib's package is read, but does not run."""
    code = (
        "import sys, numpy as np\n"
        "from apf.guides import load_guide\n"
        f"for name in ('dlib', 'probe', {str(file)!r}):\n"
        "    guide = load_guide(name); faces = np.full((1, 3, 112, 112), .5, np.float32)\n"
        "    guide.climb(faces, guide.embed(faces))\n"
        "assert not {'torch', 'onnx2torch', 'face_recognition_models', 'pkg_resources'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_dlibs_network_is_dlibs(shared_models: Path) -> None:
    """It embeds as another conversion of the same file does."""
    x = np.random.default_rng(0).normal(0, 0.3, (1, 3, 150, 150)).astype(np.float32)
    ours, theirs = (
        onnxruntime.InferenceSession(data)
        for data in (read_dlib().SerializeToString(), (shared_models / "dlib_resnet.onnx").read_bytes())
    )
    np.testing.assert_allclose(ours.run(None, {"face": x})[0], theirs.run(None, {"input": x})[0], atol=1e-5)
    spec = json.loads((shared_models / "models.json").read_text())["dlib_resnet"]["input"]
    assert InputSpec.model_validate(spec) == InputSpec.model_validate(DLIB.spec)


def test_dlibs_file_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another file, and none: each with what to do."""
    other = tmp_path / "network.dat"
    with pytest.raises(GuideError, match=r"network\.dat cannot be read .*install the package again"):
        read_dlib(other)
    other.write_bytes(b"\x01\x01\x01\x0dloss_metric_2")
    with pytest.raises(GuideError, match=f"SHA-256 .* not {DLIB.sha256}"):
        read_dlib(other)
    monkeypatch.setattr(dlib_file, "DLIB_FILE", tmp_path / "gone.dat")
    with pytest.raises(GuideError, match=r"gone\.dat cannot be read .*make setup"):
        dlib_file.read_dlib()


@pytest.mark.parametrize(
    ("text", "names"),
    [("", ()), ("dlib", ("dlib",)), (" dlib , probe,/a b/x.onnx", ("dlib", "probe", "/a b/x.onnx"))],
)
def test_lists_are_parsed(text: str, names: tuple[str, ...]) -> None:
    """As `APF_GUIDES` has them, blanks around names left out."""
    assert parse_guides(text) == names


@pytest.mark.parametrize(("text", "told"), [("dlib,,probe", "'' is no name"), ("dlib,dlib", "'dlib' is there twice")])
def test_bad_lists_are_told(text: str, told: str) -> None:
    """The error shows the list and the name."""
    with pytest.raises(GuideError, match=told):
        parse_guides(text)


def test_a_file_is_fed_as_it_is_said_beside_it(tmp_path: Path) -> None:
    """By NAME.json, by models.json, or as ArcFace's are; the key tells these apart, and the digest does not."""
    path = face_network(tmp_path, "one")
    sidecar, listed = path.with_suffix(".json"), tmp_path / "models.json"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    plain = find_source(str(path))
    assert (plain.spec, plain.digest, plain.name) == (InputSpec(), digest, "one")
    listed.write_text(json.dumps({"other": {}}))
    assert find_source(str(path)).spec == InputSpec()
    listed.write_text(json.dumps({"one": {"sha256": digest, "input": {"mean": [3]}}}))
    assert find_source(str(path)).spec == InputSpec(mean=(3,))
    sidecar.write_text(json.dumps({"channel_order": "BGR"}))
    own = find_source(str(path))
    assert own.spec == InputSpec(channel_order="BGR")
    assert own.digest == plain.digest
    assert own.key != plain.key
    sidecar.write_text(json.dumps({"chanel_order": "BGR"}))
    with pytest.raises(GuideError, match=r"(?s)one\.json does not say how .*chanel_order"):
        find_source(str(path))
    sidecar.write_text("{")
    with pytest.raises(GuideError, match=r"one\.json"):
        find_source(str(path))
    sidecar.unlink()
    listed.write_text(json.dumps({"one": {"sha256": "0" * 64, "input": {}}}))
    with pytest.raises(GuideError, match=f"SHA-256 {digest}.*{'0' * 64}"):
        find_source(str(path))


def test_unfit_files_are_told(tmp_path: Path) -> None:
    """Missing, foul, fed wrongly, or a network that embeds no number."""
    with pytest.raises(GuideError, match=r"gone\.onnx cannot be read"):
        load_guide(str(tmp_path / "gone.onnx"))
    foul = tmp_path / "foul.onnx"
    foul.write_bytes(b"no network")
    with pytest.raises(GuideError, match=r"foul\.onnx is no whole ONNX file"):
        load_guide(str(foul))
    other = face_network(tmp_path, "other", side=90)
    with pytest.raises(GuideError, match="face of 1x3x112x112"):
        load_guide(str(other))
    infinite = tmp_path / "infinite.onnx"
    body = lambda net, x: str(net.add("Div", net.add("GlobalAveragePool", x), net.const(np.zeros(1, np.float32))))  # noqa: E731
    onnx.save(network(body, 3, shape=(3, 112, 112)), infinite)
    with pytest.raises(GuideError, match="'infinite' embeds a grey face as no number"):
        load_guide(str(infinite))
    with pytest.raises(
        GuideError, match=r"no guide named 'arc': use one of dlib, probe, apf-mfn, apf-mnv2, sface, an ONNX file"
    ):
        load_guide("arc")


def test_a_pack_is_its_recogniser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its folder or by its name among InsightFace's; detectors and other networks in it are left alone."""
    pack = tmp_path / "antelope"
    pack.mkdir()
    path = face_network(pack, "w600k")
    face_network(pack, "genderage", side=96)
    found = find_source(str(pack))
    assert (found.name, found.spec) == ("w600k", InputSpec())
    monkeypatch.setattr(catalogue, "PACKS", tmp_path)
    assert load_guide("antelope").digest == hashlib.sha256(path.read_bytes()).hexdigest()
    face_network(pack, "second", seed=1)
    with pytest.raises(GuideError, match="not one recogniser of 112 pixels, but second, w600k"):
        find_source(str(pack))
    for name in ("second", "w600k"):
        (pack / f"{name}.onnx").unlink()
    with pytest.raises(GuideError, match="but none"):
        find_source(str(pack))


def test_a_pack_that_scales_by_itself_is_given_pixels(tmp_path: Path) -> None:
    """As InsightFace has it: by a subtraction and a product among the first operations."""

    def body(net, x):  # type: ignore[no-untyped-def]
        scaled = net.add("Mul", net.add("Sub", x, net.const(np.float32(127.5))), net.const(np.float32(1 / 128)))
        return net.add("GlobalAveragePool", scaled)

    onnx.save(network(body, 3, shape=(3, 112, 112)), tmp_path / "own.onnx")
    assert find_source(str(tmp_path)).spec == InputSpec(mean=(0,), std=(1,))


def test_a_fetched_guide_is_checked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in the folder under its name must have its digest; without it the error says how to fetch it."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with pytest.raises(GuideError, match="apf guides pull sface"):
        load_guide("sface")
    path = fetched_path(SFACE)
    path.parent.mkdir(parents=True)
    made = face_network(path.parent, "made")
    path.write_bytes(made.read_bytes())
    with pytest.raises(GuideError, match=f"not {SFACE.sha256}: delete it"):
        load_guide("sface")
    known = Known(
        "sface", hashlib.sha256(made.read_bytes()).hexdigest(), "MIT", "a test", spec={"mean": (0,), "std": (1,)}
    )
    monkeypatch.setitem(loading.FETCHED, "sface", known)
    made.rename(fetched_path(known))
    assert load_guide("sface").spec == InputSpec(mean=(0,), std=(1,))
